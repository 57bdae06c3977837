//! Envoy's panic threshold: with too few healthy backends, the others are picked, too.
//!
//! Those that are left would be overrun by what the others no longer take, while of the others some
//! may well work. gRPC has nothing of the kind.

/// Whether less than `threshold_percent` of all backends are healthy, so that all may be picked.
///
/// A threshold of 0 never panics, and one above 100 counts as 100. For priorities that panic each for
/// itself, see [`priority`](super::priority).
///
/// ```
/// use grpc_lb_core::testing::panics;
///
/// assert!(panics(50, 4, 10));
/// assert!(!panics(50, 5, 10));
/// ```
pub fn panics(threshold_percent: u32, healthy: usize, all: usize) -> bool {
    if all == 0 {
        return threshold_percent > 0;
    }
    100 * (healthy as u128) < u128::from(threshold_percent.min(100)) * all as u128
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::panics;

    #[test]
    fn zero_is_off() {
        assert!(!panics(0, 0, 10));
        assert!(!panics(0, 0, 0));
    }

    #[test]
    fn the_threshold_itself_is_enough() {
        assert!(panics(34, 1, 3));
        assert!(!panics(33, 1, 3));
        assert!(!panics(50, usize::MAX / 2 + 1, usize::MAX));
        assert!(panics(50, usize::MAX / 2, usize::MAX));
    }

    #[test]
    fn nobody_panics_while_all_are_healthy() {
        assert!(!panics(100, 7, 7));
        assert!(!panics(u32::MAX, 7, 7));
        assert!(panics(100, 6, 7));
    }

    #[test]
    fn an_empty_list_has_no_healthy_backend() {
        assert!(panics(1, 0, 0));
    }
}
