//! least_request: of a few backends at random, the one with the fewest calls in flight (gRFC A48).

/// The sample that costs least, the first of those that cost the same. A cost that is no number
/// never wins over one that came before. 0 if there are no samples.
///
/// ```
/// use grpc_lb_core::policy::least_request::choose;
///
/// let in_flight = [3.0, 1.0, 1.0];
/// assert_eq!(choose([0, 2, 1].into_iter(), |backend| in_flight[backend]), 2);
/// ```
#[inline]
pub fn choose(mut samples: impl Iterator<Item = usize>, cost: impl Fn(usize) -> f64) -> usize {
    let Some(first) = samples.next() else {
        return 0;
    };
    let (best, _) = samples.fold((first, cost(first)), |(best, least), sample| {
        let cost = cost(sample);
        if cost < least {
            (sample, cost)
        } else {
            (best, least)
        }
    });
    best
}
