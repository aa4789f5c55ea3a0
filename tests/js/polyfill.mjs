// js-libp2p 3 is written for Node 22. What Node 20 lacks of it:
Promise.withResolvers ??= function withResolvers () {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
