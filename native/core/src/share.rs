//! Share of the picks that goes to one of two groups: exact over any run of them, give or take one.

use triomphe::Arc;

use crate::sync::{AtomicU64, Ordering};

/// Turns, taken one after the other, of which a share belongs to the preferred group.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    /// Goes on from snapshot to snapshot.
    taken: Arc<AtomicU64>,
    share: f64,
}

impl Turns {
    pub(crate) fn new(taken: &Arc<AtomicU64>, share: f64) -> Self {
        Turns {
            taken: Arc::clone(taken),
            share,
        }
    }

    /// Takes the next turn. Whether it is one of the preferred group.
    ///
    /// Such are those at which the share adds up to the next whole number: they are spread evenly, and
    /// no random number is needed.
    pub(crate) fn take(&self) -> bool {
        // Relaxed: a turn stands for itself.
        let turn = self.taken.fetch_add(1, Ordering::Relaxed) as f64;
        ((turn + 1.0) * self.share).floor() != (turn * self.share).floor()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn any_run_of_turns_has_the_share_give_or_take_one() {
        for share in [0.1, 0.25, 0.5, 0.7, 0.999] {
            let turns = Turns::new(&Arc::new(AtomicU64::new(12_345)), share);
            let taken: Vec<bool> = (0..2_000).map(|_| turns.take()).collect();
            for run in [1, 10, 333, 1_000] {
                for start in 0..1_000 {
                    let preferred = taken[start..start + run].iter().filter(|it| **it).count();
                    let due = share * run as f64;
                    assert!(
                        (preferred as f64 - due).abs() <= 1.0 + 1e-6,
                        "{share} {run}"
                    );
                }
            }
        }
    }
}
