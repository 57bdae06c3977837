//! pick_first (gRFC A62): every call goes to the first backend that is ready, and all that follow go
//! there too, as long as it is listed and ready.
//!
//! The connection's part of A62 and A61 (which address to dial, and when) is not here: the
//! backends that a balancer holds are connected.

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use crate::caller::Caller;

/// What can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A62's `shuffleAddressList`: a random order in the place of the list's, so that many
    /// clients with one list do not all choose the same backend. A heavier backend is more likely
    /// to be the first (A113).
    ///
    /// Every backend draws its place when it is first listed and keeps it.
    pub shuffle: bool,
}

/// The backend that every pick takes.
#[derive(Default)]
pub(crate) struct Picker {
    index: usize,
    /// Which one it is: where its load is, which is no other's while this picker's list is there.
    selected: Option<usize>,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "pick_first";
    type Picker = Picker;

    /// A62: a selected backend stays selected, whatever comes before it in the list now. Once it
    /// has left, or is not ready, another is, and stays so when the first one is back.
    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        let all = || 0..list.len();
        let selected = with.last.and_then(|last| last.selected);
        let kept = selected.and_then(|it| all().find(|index| identity(list, *index) == it));
        let place = |index: &usize| place(list, *index);
        let first = kept.or_else(|| match self.shuffle {
            false => all().min_by_key(|index| list.rank(*index)),
            true => all().max_by(|one, other| place(one).total_cmp(&place(other))),
        });
        Picker {
            index: first.unwrap_or(0),
            selected: first.map(|index| identity(list, index)),
        }
    }
}

fn identity(list: &impl CandidateList, index: usize) -> usize {
    std::ptr::from_ref(list.load(index)) as usize
}

/// A backend's place in the shuffled list, the highest first.
fn place(list: &impl CandidateList, index: usize) -> f64 {
    // In the middle of its part of all numbers from 0 to 1, so that it is neither of them.
    let random = (f64::from(list.shuffle_place(index)) + 0.5) / 2.0_f64.powi(32);
    weighted_place(list.load(index).weight(), random)
}

/// A backend's place in a shuffle by weights (gRFC A113), the highest first; the chance to be first
/// is the backend's share of the weight of all. `random` is a draw from all numbers between 0 and
/// 1, without the two.
///
/// ```
/// use grpc_lb_core::testing::weighted_place;
///
/// // A heavier backend needs less luck.
/// assert!(weighted_place(10.0, 0.5) < weighted_place(1.0, 0.94));
/// assert!(weighted_place(10.0, 0.6) > weighted_place(1.0, 0.94));
/// ```
pub(crate) fn weighted_place(weight: f64, random: f64) -> f64 {
    random.powf(1.0 / weight)
}

impl PolicyPicker for Picker {
    /// It would be the same one.
    const MORE_CHOICES: usize = 0;

    #[inline]
    fn pick(&self, _candidates: &impl Candidates, _caller: &Caller) -> usize {
        self.index
    }

    /// The next one after it: with full backends, the calls go to as few as have room for them.
    fn search_from(&self, _n: usize, _caller: &Caller) -> usize {
        self.index
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn the_chance_to_be_first_is_the_share_of_the_weight() {
        let weights = [1.0, 2.0, 7.0];
        let mut random = fastrand::Rng::with_seed(1);
        let mut firsts = [0_u32; 3];
        for _ in 0..10_000 {
            let places = weights.map(|weight| weighted_place(weight, random.f64()));
            let first = (0..3).max_by(|a, b| places[*a].total_cmp(&places[*b]));
            firsts[first.expect("there are three")] += 1;
        }
        // Five standard deviations.
        let expected = [850..1_150, 1_800..2_200, 6_770..7_230];
        assert!(
            (0..3).all(|index| expected[index].contains(&firsts[index])),
            "{firsts:?}"
        );
    }
}
