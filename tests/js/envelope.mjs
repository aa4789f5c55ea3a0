// A Pasar envelope, opened without a line of Pasar's own code: msgpack, a domain tag, keccak256, secp256k1.
// The rules are those of docs/wire.md; everything that is not the one encoding of a value is refused.
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { keccak_256 } from '@noble/hashes/sha3.js'

const SIGNED = 'signed'
// What libp2p puts before a compressed secp256k1 key to make a peer id of it.
const PEER_ID_HEAD = Uint8Array.of(0x00, 37, 0x08, 0x02, 0x12, 33)

// The part of msgpack that Pasar speaks: integers, booleans, texts, bytes, arrays, and integers past 64 bits.
export function unpack (bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  const number = (size) => {
    const value = size === 8 ? view.getBigUint64(at) : BigInt(view[`getUint${8 * size}`](at))
    at += size
    return value
  }
  const cut = (size) => {
    if (at + size > bytes.length) throw new Error('cut short')
    at += size
    return bytes.subarray(at - size, at)
  }
  const text = (size) => new TextDecoder('utf-8', { fatal: true }).decode(cut(size))
  const array = (size) => Array.from({ length: size }, value)
  const big = (size) => {
    if (number(1) !== 1n) throw new Error('an unknown extension')
    return cut(size).reduce((sum, byte) => sum << 8n | BigInt(byte), 0n)
  }
  const ext = { 0xd4: 1, 0xd5: 2, 0xd6: 4, 0xd7: 8, 0xd8: 16 }
  function value () {
    const head = Number(number(1))
    if (head < 0x80) return BigInt(head)
    if (head >= 0x90 && head < 0xa0) return array(head & 0x0f)
    if (head >= 0xa0 && head < 0xc0) return text(head & 0x1f)
    if (head === 0xc0) return null
    if (head === 0xc2 || head === 0xc3) return head === 0xc3
    if (head >= 0xc4 && head <= 0xc6) return cut(Number(number(1 << head - 0xc4)))
    if (head === 0xc7) return big(Number(number(1)))
    if (head >= 0xcc && head <= 0xcf) return number(1 << head - 0xcc)
    if (head in ext) return big(ext[head])
    if (head >= 0xd9 && head <= 0xdb) return text(Number(number(1 << head - 0xd9)))
    if (head === 0xdc) return array(Number(number(2)))
    throw new Error(`not a value of ours: 0x${head.toString(16)}`)
  }
  const found = value()
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes too many`)
  return found
}

// The message inside an envelope, as an array, and the peer id of who signed it.
export function open (data) {
  const [kind, version, payload, signature] = unpack(data)
  if (kind !== SIGNED || version !== 1n || signature.length !== 65) throw new Error('not an envelope')
  if (signature[64] !== 27 && signature[64] !== 28) throw new Error('a wrong recovery id')
  const message = unpack(payload)
  const tag = new TextEncoder().encode(`pasar/${message[0]}/${message[1]}\0`)
  const digest = keccak_256(Uint8Array.from([...tag, ...payload]))
  // r || s || v with v 27 or 28, as Ethereum has it; the curve library wants the recovery bit first.
  const recovered = Uint8Array.from([signature[64] - 27, ...signature.subarray(0, 64)])
  const key = secp256k1.recoverPublicKey(recovered, digest, { prehash: false })
  if (!secp256k1.verify(signature.subarray(0, 64), digest, key, { prehash: false })) throw new Error('a wrong signature')
  return { message, author: Uint8Array.from([...PEER_ID_HEAD, ...key]) }
}
