"use strict";

/** Independent N(0, 1) samples from a seed: xorshift128 (Marsaglia 2003) and the Box–Muller transform. */
function gaussian(seed, length) {
  const state = Uint32Array.from([seed ^ 0x9e3779b9, 0x243f6a88, 0xb7e15162, seed + 1]);
  const word = () => {
    const t = state[0] ^ (state[0] << 11);
    state.copyWithin(0, 1);
    state[3] = state[2] ^ (state[2] >>> 19) ^ t ^ (t >>> 8);
    return (state[3] + 0.5) / 2 ** 32;
  };
  for (let i = 0; i < 64; i++) word();
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(word())) * Math.cos(2 * Math.PI * word()));
}
