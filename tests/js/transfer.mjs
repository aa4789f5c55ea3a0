// A bare transfer between two processes of js-libp2p, as benchmarks/transfer_node.py does it: eight bytes of length, the
// data, one byte back.
//   node --import ./polyfill.mjs transfer.mjs           serves
//   node --import ./polyfill.mjs transfer.mjs ADDR      sends as many MiB as each line on stdin says
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { randomFillSync } from 'node:crypto'
import { createInterface } from 'node:readline'

const BARE = '/bench/bare/1'
const MIB = 1 << 20
const [, , address] = process.argv
const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()]
})

async function sink (stream) {
  let head = new Uint8Array(0)
  let left = 0
  for await (const piece of stream) {
    let data = piece.subarray()
    if (left === 0) {
      head = Uint8Array.from([...head, ...data.subarray(0, 8 - head.length)])
      data = data.subarray(8)
      if (head.length < 8) continue
      left = Number(new DataView(head.buffer).getBigUint64(0))
      head = new Uint8Array(0)
    }
    left -= data.length
    if (left === 0) stream.send(Uint8Array.of(33))
  }
}

if (address === undefined) {
  await node.handle(BARE, (stream) => sink(stream))
  console.log(`READY ${JSON.stringify({ addrs: node.getMultiaddrs().map(String) })}`)
} else {
  const connection = await node.dial(multiaddr(address))
  const stream = await connection.newStream(BARE)
  const back = stream[Symbol.asyncIterator]()
  console.log('READY {}')
  for await (const line of createInterface({ input: process.stdin })) {
    const data = randomFillSync(new Uint8Array(Number(line) * MIB))
    const head = new Uint8Array(8)
    new DataView(head.buffer).setBigUint64(0, BigInt(data.length))
    const started = performance.now()
    for (let at = -1; at < data.length; at = at < 0 ? 0 : at + MIB) {
      const more = stream.send(at < 0 ? head : data.subarray(at, at + MIB))
      if (!more) await stream.onDrain()
    }
    await back.next()
    console.log(JSON.stringify((performance.now() - started) / 1000))
  }
  process.exit(0)
}
