// js-libp2p as a peer of Pasar: one line of JSON for each thing that it managed, in order.
//   node --import ./polyfill.mjs interop.mjs MULTIADDR TOPIC
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromMultihash } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import * as Digest from 'multiformats/hashes/digest'
import { open } from './envelope.mjs'

const KAD = '/pasar/kad/1.0.0'
const [, , address, topic] = process.argv
const say = (what, more = {}) => console.log(JSON.stringify({ did: what, ...more }))
const until = async (what, true_) => {
  for (const end = Date.now() + 60_000; !true_();) {
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}
const peerOf = (bytes) => peerIdFromMultihash(Digest.decode(bytes))

const node = await createLibp2p({
  privateKey: await generateKeyPair('secp256k1'),
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }),
    dht: kadDHT({ protocol: KAD, clientMode: true, peerInfoMapper: passthroughMapper })
  }
})

const offer = Promise.withResolvers()
node.services.pubsub.addEventListener('message', ({ detail }) => {
  if (detail.topic !== topic || detail.type !== 'signed') return
  try {
    offer.resolve(open(detail.data))
  } catch (error) {
    offer.reject(error)
  }
})

const connection = await node.dial(multiaddr(address))
say('connected', { peer: connection.remotePeer.toString(), muxer: connection.multiplexer, encryption: connection.encryption })

let known
await until('identify', () => {
  node.peerStore.get(connection.remotePeer).then(peer => { known = peer }, () => {})
  return known?.metadata.has('AgentVersion') && known.protocols.includes(KAD)
})
say('identified', { agent: new TextDecoder().decode(known.metadata.get('AgentVersion')), protocols: known.protocols })

// Its table asks the peer for a ping of its own first; one more at the same time is one too many.
await until('a routing table', () => node.services.dht.routingTable.size > 0)
say('pinged', { ms: await node.services.ping.ping(connection.remotePeer) })

node.services.pubsub.subscribe(topic)
await until('a mesh', () => node.services.pubsub.getMeshPeers(topic).length > 0)
say('subscribed', { mesh: node.services.pubsub.getMeshPeers(topic) })

const { message, author } = await offer.promise
const [kind, version, network, , seller, serial, pipeline, models, price] = message
say('verified', {
  kind, version: Number(version), network, seller: peerOf(seller).toString(), author: peerOf(author).toString(),
  serial: serial.toString(), pipeline, models: models.map(model => model[0]), price: price.toString()
})

const found = await node.peerRouting.findPeer(peerOf(seller), { signal: AbortSignal.timeout(60_000) })
say('found', { peer: found.id.toString(), addrs: found.multiaddrs.map(String) })
await node.stop()
process.exit(0)
