//! Hash of the hashing policies, and weights as shares of the whole.

/// XXH64 of these bytes with this seed: what gRPC and Envoy hash with. Clients in other languages
/// that have the same list therefore choose the same backend for the same key.
///
/// ```
/// use grpc_lb_core::hash::xxh64;
///
/// assert_eq!(xxh64(b"bar", 0), 5_234_164_152_756_840_025);
/// ```
pub use xxhash_rust::xxh64::xxh64;

/// Each backend's part of the weight of all, in list order; the parts add up to 1. A weight of 0
/// counts as 1, as in gRPC.
///
/// ```
/// use grpc_lb_core::hash::shares;
///
/// assert_eq!(shares(&[("a", 1), ("b", 3)]), [("a", 0.25), ("b", 0.75)]);
/// ```
pub fn shares<K: Copy>(backends: &[(K, u32)]) -> Vec<(K, f64)> {
    let weights = || backends.iter().map(|(_, weight)| weight.max(&1));
    let sum = weights().copied().map(u64::from).sum::<u64>() as f64;
    let keys = backends.iter().map(|(key, _)| *key);
    keys.zip(weights().map(|weight| f64::from(*weight) / sum))
        .collect()
}
