"""Makes one MP4 of the segments of a rendition, without decoding them. Runs in the child that made them; needs PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av

from compute.pipelines.segments import LEAD
from compute.renditions import Segment


def as_mp4(segments: Iterable[Segment]) -> bytes:
    """One rendition's segments as one MP4 file."""
    file = io.BytesIO()
    joined = io.BytesIO(b"".join(one.data for one in segments))
    with av.open(joined, format="mpegts") as source, av.open(file, "w", format="mp4") as out:
        streams = {one.index: out.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - LEAD, packet.dts - LEAD
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return file.getvalue()
