"""A protocol name that is no text, on a new stream: any peer can send it, no protocol of ours is needed."""

import trio
from stage import connect, faults, make_host, perform, running, serves, until


async def attack(guarded: bool) -> None:
    victim, attacker, honest = make_host(guarded), make_host(), make_host()
    async with running(victim, attacker, honest):
        stream = await (await connect(attacker, victim)).new_stream()
        await stream.write(b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n")
        await until(lambda: "UnicodeDecodeError" in faults) if guarded else await trio.sleep_forever()
        await serves(honest, victim)


perform(attack, "guard")
