"""Every limit, by name: how much it is, the constant that enforces it, the test that shows it. None can be forgotten.

The first part of the table is the one that the design fixes; what follows came with the defence against floods, and
with files that callers bring. A test that is named here must exist and speak of the constant, or of the module that
holds it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from market import jobwire
from market.book import CAPACITY, OrderBook
from market.conversation import QUIET_S, Conversation
from market.parcels import Parcels
from market.protocol import CONTROL_FRAME, STREAMS
from p2p.codec import MAX_MESSAGE
from p2p.errors import Unavailable
from p2p.memory import MemoryNetwork, running
from p2p.peer import PeerId
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs
from tests.support.market_values import NETWORK, stranger

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "limits.md"
KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Limit:
    """One row."""

    what: str
    value: float
    constant: str  # module:NAME
    test: str  # file:name of the test


DESIGNED = (
    Limit(
        "a gossiped message, bytes",
        4 * KIB,
        "p2p.admission:MAX_GOSSIP",
        "test_admission:test_the_gate_rejects_sizes_and_ignores_repeats",
    ),
    Limit(
        "a control message, bytes",
        256 * KIB,
        "p2p.codec:MAX_MESSAGE",
        "test_limits:test_a_longer_control_message_ends_the_stream",
    ),
    Limit(
        "a chunk and its header, bytes",
        MIB + 4 * KIB,
        "p2p.stream:JOB_FRAME",
        "test_blobs:test_the_largest_chunk_fits_its_frame",
    ),
    Limit(
        "unacknowledged on a stream, bytes",
        4 * MIB,
        "p2p.blobs:WINDOW",
        "test_blobs:test_a_full_window_waits_for_an_acknowledgement",
    ),
    Limit(
        "received and unread on a connection, bytes",
        64 * MIB,
        "p2p.hardening.receiving:CONNECTION_BUFFER",
        "test_hardening:test_a_frame_that_is_too_much_is_refused_before_it_is_read",
    ),
    Limit(
        "a DHT record, bytes",
        KIB,
        "p2p.discovery:MAX_RECORD",
        "test_floods:test_a_provider_record_is_small_whatever_was_sent",
    ),
    Limit(
        "an artifact, bytes",
        2 * GIB,
        "p2p.blobs:MAX_BLOB",
        "test_blobs:test_a_size_above_the_cap_is_refused_before_anything_is_kept",
    ),
    Limit(
        "sellers that never had a job and are remembered",
        1024,
        "market.reputation:MAX_STRANGERS",
        "test_reputation:test_names_that_never_had_a_job_are_few",
    ),
    Limit("offers in the book", 100_000, "market.book:CAPACITY", "test_limits:test_a_full_book_takes_no_more"),
    Limit(
        "streams of one peer, each way",
        64,
        "p2p.host:MAX_STREAMS",
        "test_contracts_libp2p:test_network_bounds_streams",
    ),
    Limit(
        "seconds for a stream to open",
        10,
        "p2p.host:OPEN_TIMEOUT",
        "test_floods:test_a_stream_that_never_opens_is_given_up",
    ),
    Limit(
        "seconds of silence on a session",
        45,
        "market.conversation:QUIET_S",
        "test_limits:test_a_session_without_a_word_is_left",
    ),
    Limit(
        "seconds for a handshake",
        10,
        "p2p.host:HANDSHAKE_TIMEOUT",
        "test_door_namespaces:test_one_address_has_its_handshakes_its_rate_and_its_time_and_another_is_let_in",
    ),
    Limit(
        "inbound connections of one address in a second",
        10,
        "p2p.doorkeeper:INBOUND_PER_SECOND",
        "test_doorkeeper:test_an_address_has_its_rate_of_connections",
    ),
    Limit(
        "inbound connections of one address at once",
        30,
        "p2p.doorkeeper:INBOUND_BURST",
        "test_door_namespaces:test_an_address_that_comes_and_goes_without_end_is_turned_away",
    ),
    Limit(
        "RFQs of one gateway in a second",
        20,
        "market.quote:RFQ_PER_SECOND",
        "test_hostile_gateways:test_quotes_are_asked_for_at_a_bounded_rate",
    ),
    Limit(
        "tickets in a batch",
        100,
        "ledger.ticket:MAX_BATCH",
        "test_ticket:test_a_batch_of_more_than_a_hundred_is_no_message",
    ),
    Limit(
        "bids of one client that rest",
        32,
        "market.bid:RESTING_PER_CLIENT",
        "test_bid:test_at_most_so_many_of_one_client",
    ),
)
DEFENCE = (
    Limit(
        "handshakes of one address under way",
        8,
        "p2p.doorkeeper:HANDSHAKES_EACH",
        "test_doorkeeper:test_an_address_has_its_number_of_handshakes",
    ),
    Limit(
        "handshakes under way",
        128,
        "p2p.doorkeeper:HANDSHAKES",
        "test_doorkeeper:test_all_together_have_their_number_of_handshakes_and_a_newcomer_is_still_heard",
    ),
    Limit(
        "connections of one address",
        64,
        "p2p.doorkeeper:CONNECTIONS_EACH",
        "test_doorkeeper:test_an_address_and_a_subnet_have_their_number_of_connections",
    ),
    Limit(
        "connections of one subnet",
        256,
        "p2p.doorkeeper:CONNECTIONS_SUBNET",
        "test_doorkeeper:test_an_address_and_a_subnet_have_their_number_of_connections",
    ),
    Limit(
        "connections, before the most crowded subnet makes room",
        900,
        "p2p.doorkeeper:CONNECTIONS",
        "test_doorkeeper:test_a_full_house_makes_room_for_a_less_crowded_subnet_and_for_no_other",
    ),
    Limit(
        "seconds that an address waits at most, when peers there were shut out",
        300,
        "p2p.doorkeeper:BARRED_MOST",
        "test_doorkeeper:test_an_address_whose_peers_are_shut_out_waits_longer_each_time",
    ),
    Limit(
        "addresses that wait",
        4_096,
        "p2p.doorkeeper:BARRED_KEPT",
        "test_doorkeeper:test_so_many_addresses_are_barred_and_no_more",
    ),
    Limit("streams that one peer opens at once", 200, "p2p.host:STREAMS_BURST", "test_floods:test_a_flood_of_streams"),
    Limit(
        "refused streams of one connection whose reset waits",
        64,
        "p2p.hardening.receiving:REFUSALS_MOST",
        "test_hardening:test_streams_that_are_refused_in_vain_are_one_task_and_then_the_end",
    ),
    Limit(
        "acknowledgements of one connection that wait",
        512,
        "p2p.hardening.sending:REPLIES_MOST",
        "test_hardening:test_answers_that_nobody_takes_are_one_task_and_then_the_end",
    ),
    Limit(
        "a frame of the muxer, bytes",
        MIB,
        "p2p.hardening.receiving:FRAME_MOST",
        "test_hardening:test_a_frame_that_is_too_much_is_refused_before_it_is_read",
    ),
    Limit(
        "gossip RPCs of one neighbour at once",
        1000,
        "p2p.hardening.gossiping:RPCS_BURST",
        "test_floods:test_a_flood_of_rpcs",
    ),
    Limit(
        "gossip signatures checked for one neighbour at once",
        250,
        "p2p.hardening.gossiping:MESSAGES_BURST",
        "test_floods:test_signatures_are_looked_at_within_a_budget",
    ),
    Limit(
        "subscriptions of one neighbour at once",
        128,
        "p2p.hardening.gossiping:SUBSCRIPTIONS_BURST",
        "test_floods:test_a_flood_of_subscriptions",
    ),
    Limit(
        "gossip control entries of one neighbour at once",
        500,
        "p2p.hardening.gossiping:CONTROLS_BURST",
        "test_floods:test_a_flood_of_control_entries",
    ),
    Limit(
        "message ids in one gossip RPC",
        512,
        "p2p.hardening.gossiping:IDS_MOST",
        "test_floods:test_one_message_is_sent_once_to_whoever_wants_it_a_thousand_times",
    ),
    Limit(
        "DHT streams of one peer at a time",
        4,
        "p2p.discovery:STREAMS_EACH",
        "test_floods:test_streams_that_ask_the_dht_nothing_hold_their_places_for_a_while_only",
    ),
    Limit(
        "seconds of one DHT stream",
        10,
        "p2p.discovery:STREAM_LIFE",
        "test_floods:test_streams_that_ask_the_dht_nothing_hold_their_places_for_a_while_only",
    ),
    Limit(
        "pieces of answers on one DHT stream",
        16,
        "p2p.kadstore:WRITES_EACH",
        "test_floods:test_a_stream_of_the_dht_ends_after_so_many_answers",
    ),
    Limit(
        "DHT streams of one peer at once",
        100,
        "p2p.discovery:QUESTIONS_BURST",
        "test_floods:test_a_flood_of_streams_to_the_dht",
    ),
    Limit(
        "DHT keys", 8192, "p2p.providers:MAX_KEYS", "test_providers:test_a_flood_of_keys_takes_those_that_others_keep"
    ),
    Limit(
        "DHT keys of one provider",
        32,
        "p2p.providers:KEYS_EACH",
        "test_providers:test_a_provider_has_so_many_keys_and_we_ourselves_as_many_as_we_like",
    ),
    Limit(
        "providers of one DHT key",
        64,
        "p2p.providers:PROVIDERS_EACH",
        "test_providers:test_an_address_crowds_nobody_out_of_a_key",
    ),
    Limit(
        "providers of one DHT key at one address",
        8,
        "p2p.providers:SHARING",
        "test_providers:test_an_address_crowds_nobody_out_of_a_key",
    ),
    Limit(
        "peers that one path of a look-up asks",
        20,
        "p2p.lookup:ASKED_MOST",
        "test_lookup:test_one_honest_beginning_is_enough",
    ),
    Limit(
        "seconds for a hello",
        10,
        "market.hello:HELLO_TIMEOUT_S",
        "test_hostile_neighbours:test_a_stream_begins_with_a_hello_of_this_network",
    ),
    Limit(
        "places that a newcomer gateway holds",
        2,
        "market.quote:NEWCOMER_HOLDS",
        "test_quote:test_a_newcomer_gateway_gets_two_holds",
    ),
    Limit(
        "places that one gateway holds",
        16,
        "market.quote:HOLDS_EACH",
        "test_hostile_idlers:test_the_best_known_gateway_holds_so_many_places",
    ),
    Limit(
        "held quotes that are over and wait for a late word",
        1024,
        "market.quote:MAX_OVER",
        "test_hostile_idlers:test_what_waits_for_a_late_word_is_bounded",
    ),
    Limit(
        "milliseconds from an award to its cover",
        20_000,
        "market.session.seller:COVERING_MS",
        "test_hostile_idlers:test_an_award_has_its_time_to_be_covered_however_often_its_stream_breaks",
    ),
    Limit(
        "times its own finish-by that a seller may be without a word",
        3,
        "market.pace:STALL_TIMES",
        "test_pace:test_patience_follows_the_sellers_own_word",
    ),
    Limit(
        "times that the same bytes are sent",
        4,
        "market.parcels:REPEATS",
        "test_hostile_idlers:test_the_same_bytes_are_sent_so_often_and_no_more",
    ),
    Limit(
        "jobs of a gateway",
        1024,
        "market.gateway:MAX_JOBS",
        "test_jobrun:test_who_fills_a_gateway_leaves_room_for_another",
    ),
    Limit(
        "bytes of all inputs of a job",
        48 * MIB,
        "compute.spec:MAX_INPUT",
        "test_jobinputs:test_a_spec_names_no_more_input_than_a_node_holds",
    ),
    Limit(
        "steps that one check runs again",
        8,
        "compute.evidence:MAX_DRAWN",
        "test_evidence:test_both_sides_of_every_drawn_step_are_needed_and_both_ends",
    ),
    Limit(
        "bytes of latents in one check",
        32 * MIB,
        "compute.evidence:MAX_SHOWN_BYTES",
        "test_tracedesk:test_a_desk_reads_no_more_bytes_than_a_check_shows",
    ),
    Limit(
        "asks of one peer for leaves at once",
        8,
        "market.tracedesk:ASKS_BURST",
        "test_tracedesk:test_asks_are_bounded_by_peer_and_by_job",
    ),
    Limit(
        "asks about one job for leaves at once",
        8,
        "market.tracedesk:JOB_BURST",
        "test_tracedesk:test_asks_are_bounded_by_peer_and_by_job",
    ),
    Limit(
        "bytes of a verdict",
        64 * KIB,
        "compute.checkverdict:MAX_VERDICT",
        "test_evidence:test_hostile_numbers_and_sizes_are_malformed",
    ),
    Limit(
        "bytes of inputs of all unfinished jobs of a gateway",
        512 * MIB,
        "market.gateway:MAX_INPUT_BYTES",
        "test_jobinputs:test_a_gateway_holds_so_much_input_and_no_more",
    ),
    Limit(
        "bytes of a picture that is drawn over",
        4 * MIB,
        "compute.catalog:MAX_DRAWN_OVER",
        "test_image_to_image:test_what_is_no_picture_or_too_large_is_refused_unread",
    ),
    Limit(
        "bytes of a preview",
        16 * KIB,
        "market.jobwire:MAX_PREVIEW",
        "test_hostile_sellers:test_progress_beyond_any_job_and_endless_previews",
    ),
    Limit(
        "previews of a job that a gateway passes on in a second",
        4,
        "market.bulletin:PREVIEWS_PER_SECOND",
        "test_previewing:test_a_bulletin_shows_the_newest_to_who_asked_and_no_flood",
    ),
    Limit(
        "previews of a job that a client keeps",
        512,
        "market.album:MOST",
        "test_previewing:test_an_album_keeps_small_pictures_and_not_too_many",
    ),
    Limit(
        "the part of them that one address has open, one in",
        4,
        "market.gateway:ADDRESS_PART",
        "test_hostile_idlers:test_one_address_fills_a_quarter_of_a_gateway",
    ),
    Limit(
        "sales of an orchestrator for one gateway",
        256,
        "market.orchestrator:MAX_SALES_EACH",
        "test_hostile_gateways:test_one_gateway_does_not_fill_the_table",
    ),
    Limit(
        "values that the offers of a book share",
        4096,
        "market.book:MAX_SHARED",
        "test_book:test_what_offers_have_in_common_is_held_once",
    ),
    Limit(
        "proofs of equivocation kept",
        256,
        "market.equivocation:MAX_PROOFS",
        "test_equivocation:test_proofs_are_bounded_in_number_and_in_rate",
    ),
    Limit(
        "peers whose faults are remembered",
        4096,
        "p2p.scores:MAX_PEERS",
        "test_scores:test_the_number_of_peers_is_bounded",
    ),
    Limit(
        "log lines of one kind about one peer in a minute",
        20,
        "p2p.loglimit:LINES_EACH",
        "test_loglimit:test_one_peer_has_its_lines_of_each_kind",
    ),
    Limit(
        "log lines of one kind in a minute",
        600,
        "p2p.loglimit:LINES",
        "test_loglimit:test_keys_without_end_have_the_lines_of_their_kind_and_no_more",
    ),
)
MEDIA = (
    Limit(
        "a picture file, bytes",
        16 * MIB,
        "compute.imagefile:DEFAULT.bytes",
        "test_imagefile:test_bytes_pixels_and_short_sides_have_their_own_limits",
    ),
    Limit(
        "a side of a picture, pixels",
        4096,
        "compute.imagefile:DEFAULT.side",
        "test_imagefile:test_a_bomb_is_refused_by_its_header",
    ),
    Limit(
        "a picture, pixels",
        8 * MIB,
        "compute.imagefile:DEFAULT.pixels",
        "test_imagefile:test_a_bomb_is_refused_by_its_header",
    ),
    Limit(
        "the shorter side of a picture at least, pixels",
        8,
        "compute.imagefile:DEFAULT.least_side",
        "test_imagefile:test_bytes_pixels_and_short_sides_have_their_own_limits",
    ),
    Limit(
        "parts of a JPEG that are passed over before its sides",
        256,
        "compute.pictureheader:MAX_SEGMENTS",
        "test_media_limits:test_a_jpeg_says_its_sides_within_so_many_parts",
    ),
    Limit(
        "scans of a JPEG",
        64,
        "compute.pictureheader:MAX_SCANS",
        "test_imagefile:test_a_jpeg_of_scans_without_end_is_refused_before_its_decoder_sees_it",
    ),
    Limit(
        "a sound file, bytes",
        48 * MIB,
        "compute.soundfile:DEFAULT.bytes",
        "test_soundfile:test_length_in_bytes_and_seconds_has_limits",
    ),
    Limit(
        "a sound, seconds",
        3600,
        "compute.soundfile:DEFAULT.seconds",
        "test_soundfile:test_length_in_bytes_and_seconds_has_limits",
    ),
    Limit(
        "samples that are decoded of a sound, of all channels",
        400_000_000,
        "compute.soundfile:DEFAULT.samples",
        "test_soundfile:test_what_is_decoded_has_a_limit_whatever_its_length",
    ),
    Limit(
        "streams of a container of sound",
        16,
        "compute.soundfile:MAX_STREAMS",
        "test_media_limits:test_a_container_has_so_many_streams",
    ),
    Limit(
        "parts of a WAV before its sound",
        64,
        "compute.wavefile:MAX_CHUNKS",
        "test_media_limits:test_a_wav_has_its_sound_within_so_many_parts",
    ),
    Limit(
        "channels of a sound",
        8,
        "compute.wavefile:MAX_CHANNELS",
        "test_media_limits:test_channels_and_rates_have_limits",
    ),
    Limit(
        "samples of a channel in a second at least",
        4000,
        "compute.wavefile:MIN_RATE",
        "test_media_limits:test_channels_and_rates_have_limits",
    ),
    Limit(
        "samples of a channel in a second",
        192_000,
        "compute.wavefile:MAX_RATE",
        "test_media_limits:test_channels_and_rates_have_limits",
    ),
    Limit(
        "a film, bytes",
        256 * MIB,
        "compute.renditions:MAX_BYTES",
        "test_media_limits:test_a_film_or_a_segment_of_too_many_bytes_never_reaches_the_decoder",
    ),
    Limit(
        "a live segment, bytes",
        32 * MIB,
        "compute.pipelines.transcoder:MAX_PUSH_BYTES",
        "test_media_limits:test_a_film_or_a_segment_of_too_many_bytes_never_reaches_the_decoder",
    ),
    Limit(
        "a film, seconds",
        3600,
        "compute.pipelines.transcoder:MAX_SECONDS",
        "test_transcode:test_limits_are_read_before_decoding",
    ),
    Limit(
        "a picture of a film, pixels",
        3840 * 2160,
        "compute.pipelines.transcoder:MAX_PIXELS",
        "test_transcode:test_limits_are_read_before_decoding",
    ),
    Limit(
        "streams of a film",
        16,
        "compute.pipelines.transcoder:MAX_STREAMS",
        "test_transcode:test_limits_are_read_before_decoding",
    ),
    Limit(
        "pictures of a film in a second",
        240,
        "compute.pipelines.transcoder:MAX_FRAMES_A_SECOND",
        "test_transcode:test_too_many_pictures_a_second_are_refused",
    ),
    Limit(
        "renditions of a film",
        8,
        "compute.renditions:MAX_RENDITIONS",
        "test_renditions:test_a_ladder_is_bounded_and_its_names_differ",
    ),
    Limit(
        "a side of a rendition, pixels",
        3840,
        "compute.renditions:MAX_SIDE",
        "test_renditions:test_a_rendition_out_of_bounds_is_refused",
    ),
    Limit(
        "address space of a film's decoder, bytes",
        2 * GIB,
        "compute.pipelines.transcodechild:MEMORY",
        "test_transcode:test_the_decoder_has_little_memory_and_no_files",
    ),
    Limit(
        "seconds that a film's decoder may be silent",
        30,
        "compute.pipelines.transcode:STALL_S",
        "test_transcode:test_a_decoder_that_falls_silent_or_dies_is_a_refusal",
    ),
    Limit(
        "frames of a film on offer",
        108_000,
        "compute.encodermodel:MAX_FRAMES",
        "test_encodermodel:test_what_is_on_offer_is_bounded",
    ),
    Limit(
        "bytes of all renditions of a film",
        64 * MIB,
        "compute.renditions:MAX_MADE",
        "test_transcode_jobs:test_a_result_is_no_larger_than_somebody_will_hold",
    ),
    Limit(
        "renditions of a film with playlists",
        7,
        "compute.profiles:MAX_IN_PLAYLISTS",
        "test_profiles:test_what_cannot_be_made_is_the_callers_mistake",
    ),
    Limit(
        "the start of a live segment, ticks",
        24 * 3600 * 90_000,
        "compute.profiles:MAX_START",
        "test_profiles:test_what_cannot_be_made_is_the_callers_mistake",
    ),
    Limit(
        "milliseconds of a piece of a live stream",
        20_000,
        "market.reel:MAX_PIECE_MS",
        "test_reel:test_a_piece_that_no_seller_takes_is_lost",
    ),
    Limit(
        "bytes of a segment that is cut for a live stream",
        48 * MIB,
        "compute.filmcutting:MAX_HELD",
        "test_live:test_a_film_without_key_frames_is_not_held_whole",
    ),
)
DOORWAY = (
    Limit(
        "workers of other hosts",
        16,
        "compute.doorway:MAX_GUESTS",
        "test_worker_far:test_a_name_belongs_to_one_and_models_must_be_there",
    ),
    Limit(
        "connections to the doorway that have not shown its key",
        16,
        "compute.doorway:MAX_MEETING",
        "test_worker_far:test_strangers_who_say_nothing_or_nonsense_are_shut_out_and_nobody_else",
    ),
    Limit(
        "seconds that such a connection may take",
        10,
        "compute.doorway:MEET_S",
        "test_worker_far:test_strangers_who_say_nothing_or_nonsense_are_shut_out_and_nobody_else",
    ),
    Limit(
        "tries of one address without the key at once; then one in ten seconds",
        5,
        "compute.doorway:TRIES",
        "test_worker_far:test_tries_without_the_key_come_to_an_end_and_the_key_still_opens",
    ),
    Limit(
        "bytes of a message before a worker is welcome",
        8 * KIB,
        "compute.joinwire:JOIN_LIMIT",
        "test_worker_far:test_a_join_that_is_too_large_is_not_read",
    ),
    Limit(
        "times that a job is on a worker that dies",
        2,
        "compute.fleet:MAX_RUNS",
        "test_fleet:test_a_job_that_kills_twice_is_given_up_and_nobody_else_is",
    ),
    Limit(
        "times its measure that a step may take without a sign of life",
        20,
        "compute.verdict:STEP_TIMES",
        "test_verdict:test_a_step_may_take_so_many_times_what_it_takes_by_measure",
    ),
    Limit(
        "seconds that any step may take",
        30,
        "compute.verdict:LEAST_STEP_S",
        "test_verdict:test_more_is_borne_of_a_longer_step_and_never_less_than_the_least",
    ),
    Limit(
        "raw frames of a clip in shared memory",
        4,
        "compute.pipelines.framechild:SLOTS",
        "test_filming:test_more_frames_than_slots_arrive_in_order_while_the_child_is_slow",
    ),
)
ALL = (*DESIGNED, *DEFENCE, *MEDIA, *DOORWAY)


@pytest.mark.parametrize("limit", ALL, ids=lambda limit: limit.constant)
def test_a_limit_is_what_the_table_says_and_is_shown_by_a_test(limit: Limit) -> None:
    module, _, name = limit.constant.partition(":")
    if module.startswith(("compute.pipelines", "compute.filmcutting")):
        pytest.importorskip("av")
    assert attrgetter(name)(import_module(module)) == limit.value
    file, _, test = limit.test.partition(":")
    source = (HERE / f"{file}.py").read_text()
    defined = {
        node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert test in defined
    assert name in source or module.rpartition(".")[2] in source, "the test knows nothing of this limit"


def test_the_page_of_limits_is_this_table() -> None:
    assert PAGE.read_text().endswith(rendered()), "run python -m tests.test_limits"


def rendered() -> str:
    """The table as Markdown."""
    lines = ["| what | limit | constant |", "|---|---|---|"]
    for limit in ALL:
        shown = f"{int(limit.value):,}".replace(",", " ")
        lines.append(f"| {limit.what} | {shown} | `{limit.constant.replace(':', '.')}` |")
    return "\n".join(lines) + "\n"


# -- what no other file shows ----------------------------------------------------------------------------------------


async def test_a_longer_control_message_ends_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    assert STREAMS["/pasar/control/1"] == CONTROL_FRAME
    assert CONTROL_FRAME == MAX_MESSAGE == MessageStream(cast(Any, None)).limit
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))

    async def serve(raw: Any) -> None:
        await MessageStream(raw).receive(timeout=10)

    here.serve("/pasar/control/1", serve)
    async with running(here, there):
        await there.connect(PeerAddrs(here.peer, (here._addr,)))
        raw = await there.open(here.peer, "/pasar/control/1")
        await raw.send((MAX_MESSAGE + 1).to_bytes(4, "big"))
        with pytest.raises(Unavailable):
            await MessageStream(raw).receive(timeout=5)
    assert [type(fault).__name__ for fault in here.failures] == ["MalformedMessage"]


def test_a_full_book_takes_no_more() -> None:
    """The rule of who goes is tested on small books; that the real one is this large, here."""
    book = OrderBook(NETWORK)
    assert book.capacity == CAPACITY
    book._postings = dict.fromkeys(((PeerId(n.to_bytes(39, "big")), "p") for n in range(CAPACITY)), cast(Any, None))
    assert not book._room((stranger(1), "p"), None, 0)
    book._postings.popitem()
    assert book._room((stranger(1), "p"), None, 0)


class Quiet:
    """A session that waits for nothing."""

    award: jobwire.Award
    wake_at = None

    def handle(self, event: object, now: int) -> list[Any]:
        return []


async def test_a_session_without_a_word_is_left(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))
    left: list[float] = []

    async def nothing(_: object) -> Any:
        return None

    async def serve(raw: Any) -> None:
        talk = Conversation(cast(Any, Quiet()), stranger(1), Parcels(), nothing, nothing, buying=False)
        with pytest.raises(Unavailable):
            await talk.attach(MessageStream(raw))
        left.append(trio.current_time())

    here.serve("/pasar/job/1", serve)
    async with running(here, there):
        await there.connect(PeerAddrs(here.peer, (here._addr,)))
        before = trio.current_time()
        await there.open(here.peer, "/pasar/job/1")
        await trio.sleep(2 * QUIET_S)
    assert [at - before for at in left] == [pytest.approx(QUIET_S)]


if __name__ == "__main__":
    head = PAGE.read_text().partition("| what |")[0]
    PAGE.write_text(head + rendered())
