//! Draws of backends, each as likely as its weight says, and no backend twice in one draw.

use super::alias::Alias;
use super::contract::Candidates;
use crate::caller::Caller;

/// As many as one draw can give.
pub(crate) const MOST: usize = 10;

/// How often a draw comes upon a backend that it has already before it gives up on weights. One that
/// outweighs all others together would have it draw on and on.
const REPEATS: usize = 3;

/// The same where no backend may have more than its weight says: so of two equal ones, one is alone in
/// one pair of 64.
const REPEATS_OF_PAIR: usize = 6;

/// Draws among the backends of one list.
pub(crate) struct Draw {
    /// `None`: each is as likely as the others.
    by_weight: Option<Alias>,
}

impl Draw {
    /// Prepares draws by weight, or where nothing is `weighted` such as need no table.
    pub(crate) fn new(list: &impl Candidates, weighted: bool) -> Draw {
        let by_weight = weighted.then(|| {
            let weights = (0..list.len()).map(|index| list.load(index).weight());
            Alias::new(&weights.collect::<Vec<f64>>())
        });
        Draw {
            by_weight: by_weight.flatten(),
        }
    }

    /// Whether some are more likely than others.
    #[inline]
    pub(crate) fn is_by_weight(&self) -> bool {
        self.by_weight.is_some()
    }

    /// One of `n` backends, of which there is one at least: as many as it was prepared for.
    #[inline]
    pub(crate) fn one(&self, n: usize, caller: &Caller) -> usize {
        match &self.by_weight {
            None => caller.random_below(n),
            Some(alias) => alias.pick(caller.random()),
        }
    }

    /// One of `n`, and another that is drawn by its weight, too. `None`: it was the first one again and
    /// again, which outweighs all others together.
    #[inline]
    pub(crate) fn pair(&self, n: usize, caller: &Caller) -> (usize, Option<usize>) {
        let first = self.one(n, caller);
        let second = match &self.by_weight {
            None => any_other(first, n, caller),
            Some(alias) => drawn_other(alias, first, REPEATS_OF_PAIR, caller),
        };
        (first, second)
    }

    /// As [`Draw::distinct`] of two, in a third of the time. `None`: there is one.
    #[inline]
    pub(crate) fn two(&self, n: usize, caller: &Caller) -> (usize, Option<usize>) {
        let first = self.one(n, caller);
        let by_weight = self.by_weight.as_ref();
        let drawn = by_weight.and_then(|alias| drawn_other(alias, first, REPEATS, caller));
        (first, drawn.or_else(|| any_other(first, n, caller)))
    }

    /// So many different ones of `n`, or all of them where there are no more. Allocates nothing.
    #[inline]
    pub(crate) fn distinct<'a>(&'a self, n: usize, count: usize, caller: &'a Caller) -> Drawn<'a> {
        debug_assert!(count <= MOST);
        Drawn {
            draw: self,
            caller,
            n,
            left: count.min(n),
            taken: [0; MOST],
            drawn: 0,
        }
    }
}

/// One of `n` that is not this one.
#[inline]
fn any_other(one: usize, n: usize, caller: &Caller) -> Option<usize> {
    (n > 1).then(|| {
        let place = caller.random_below(n - 1);
        place + usize::from(place >= one)
    })
}

/// One that is drawn by its weight and is not this one, if so many draws come upon any.
#[inline]
fn drawn_other(alias: &Alias, one: usize, draws: usize, caller: &Caller) -> Option<usize> {
    let mut drawn = (0..draws).map(|_| alias.pick(caller.random()));
    drawn.find(|index| *index != one)
}

/// Different backends, in the order in which they are drawn.
///
/// The first is drawn by its weight alone. So is each that follows, among those that are left; where
/// the weights of those that are not dwarf theirs, each that is left is as likely as the others.
pub(crate) struct Drawn<'a> {
    draw: &'a Draw,
    caller: &'a Caller,
    n: usize,
    left: usize,
    /// Those that were drawn, sorted.
    taken: [usize; MOST],
    drawn: usize,
}

impl Iterator for Drawn<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let index = match self.drawn {
            0 => self.draw.one(self.n, self.caller),
            _ => self.another(),
        };
        if self.left > 0 {
            self.take(index);
        }
        Some(index)
    }
}

impl Drawn<'_> {
    /// One that is not taken.
    #[inline]
    fn another(&self) -> usize {
        let taken = &self.taken[..self.drawn];
        if let Some(alias) = &self.draw.by_weight {
            let mut drawn = (0..REPEATS).map(|_| alias.pick(self.caller.random()));
            if let Some(new) = drawn.find(|index| !taken.contains(index)) {
                return new;
            }
        }
        // Its place among those that are not taken; each that is taken before it moves it on.
        let place = self.caller.random_below(self.n - self.drawn);
        let before = |index: usize, taken: &usize| index + usize::from(*taken <= index);
        taken.iter().fold(place, before)
    }

    fn take(&mut self, index: usize) {
        let taken = &mut self.taken[..=self.drawn];
        let place = taken[..self.drawn].partition_point(|taken| *taken < index);
        taken[place..].rotate_right(1);
        taken[place] = index;
        self.drawn += 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::load::{Load, Measuring};
    use crate::time::Time;

    struct Weighted(Vec<Load>);

    impl Candidates for Weighted {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn load(&self, index: usize) -> &Load {
            &self.0[index]
        }

        fn calls_in_flight(&self) -> u32 {
            0
        }
    }

    fn weighted(weights: &[f64]) -> Draw {
        let load = |weight: &f64| {
            let load = Load::new(&Measuring::plain(), false, Time(0));
            load.set_weight(Some(*weight), 1.0);
            load
        };
        Draw::new(&Weighted(weights.iter().map(load).collect()), true)
    }

    const DRAWS: usize = 200_000;

    /// How often each sequence is drawn.
    fn sequences(draw: &Draw, n: usize, count: usize) -> HashMap<Vec<usize>, usize> {
        let caller = Caller::new(19);
        let mut sequences = HashMap::new();
        for _ in 0..DRAWS {
            let drawn = draw.distinct(n, count, &caller).collect();
            *sequences.entry(drawn).or_default() += 1;
        }
        sequences
    }

    /// Compares with how likely each of some sequences is; `critical` is what one of a thousand
    /// draws that are right exceeds.
    fn assert_fits(
        sequences: &HashMap<Vec<usize>, usize>,
        expected: &[(Vec<usize>, f64)],
        critical: f64,
    ) {
        assert_eq!(sequences.len(), expected.len(), "{sequences:?}");
        let statistic: f64 = expected
            .iter()
            .map(|(sequence, share)| {
                let expected = share * DRAWS as f64;
                (sequences[sequence] as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(statistic < critical, "{statistic}: {sequences:?}");
    }

    #[test]
    fn two_are_those_that_a_draw_of_two_gives() {
        for n in 1..15 {
            for weights in [
                vec![1.0; n],
                (0..n).map(|w| 4.0_f64.powi(w as i32)).collect(),
            ] {
                let draws = [weighted(&weights), Draw::new(&Weighted(vec![]), false)];
                for draw in draws {
                    let [one, other] = [Caller::new(5), Caller::new(5)];
                    for _ in 0..100 {
                        let (first, second) = draw.two(n, &one);
                        let two: Vec<_> = [first].into_iter().chain(second).collect();
                        assert!(draw.distinct(n, 2, &other).eq(two));
                    }
                }
            }
        }
    }

    #[test]
    fn there_are_no_more_than_there_are_backends_and_none_is_drawn_twice() {
        let caller = Caller::new(3);
        for n in 1..15 {
            for weights in [vec![1.0; n], (1..=n).map(|w| w as f64).collect()] {
                let draw = weighted(&weights);
                for count in 1..=MOST {
                    let mut drawn: Vec<usize> = draw.distinct(n, count, &caller).collect();
                    drawn.sort_unstable();
                    drawn.dedup();
                    assert_eq!(drawn.len(), count.min(n));
                    assert!(drawn.iter().all(|index| *index < n));
                }
            }
        }
    }

    #[test]
    fn of_equal_ones_every_sequence_is_as_likely() {
        let draw = weighted(&[1.0; 5]);
        let others = |a| (0..5).filter(move |b| *b != a);
        let pairs: Vec<_> = (0..5)
            .flat_map(|a| others(a).map(move |b| (vec![a, b], 1.0 / 20.0)))
            .collect();
        // 19 degrees of freedom.
        assert_fits(&sequences(&draw, 5, 2), &pairs, 43.82);
        let triples: Vec<_> = (0..5)
            .flat_map(|a| others(a).map(move |b| (a, b)))
            .flat_map(|(a, b)| others(a).map(move |c| (a, b, c)))
            .filter(|(_, b, c)| b != c)
            .map(|(a, b, c)| (vec![a, b, c], 1.0 / 60.0))
            .collect();
        // 59 degrees of freedom.
        assert_fits(&sequences(&draw, 5, 3), &triples, 98.32);
    }

    #[test]
    fn the_first_goes_by_weight_and_so_does_the_next_among_the_others() {
        let weights: [f64; 3] = [1.0, 2.0, 5.0];
        let pairs: Vec<_> = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
            .map(|(a, b)| {
                let first = weights[a] / 8.0;
                // Drawn in time, or one of the two others at last.
                let missed = first.powi(REPEATS as i32);
                let second = (1.0 - missed) * weights[b] / (8.0 - weights[a]) + missed / 2.0;
                (vec![a, b], first * second)
            })
            .into();
        // 5 degrees of freedom.
        assert_fits(&sequences(&weighted(&weights), 3, 2), &pairs, 20.52);
    }

    #[test]
    fn the_second_of_a_pair_goes_by_weight_or_there_is_none() {
        let weights: [f64; 3] = [1.0, 2.0, 5.0];
        let draw = weighted(&weights);
        let caller = Caller::new(19);
        let mut pairs = HashMap::new();
        for _ in 0..DRAWS {
            let (first, second) = draw.pair(3, &caller);
            let pair = [Some(first), second].into_iter().flatten().collect();
            *pairs.entry(pair).or_default() += 1;
        }
        let expected: Vec<_> = (0..3)
            .flat_map(|a| (0..3).map(move |b| (a, b)))
            .map(|(a, b)| {
                let first = weights[a] / 8.0;
                let missed = first.powi(REPEATS_OF_PAIR as i32);
                match a == b {
                    true => (vec![a], first * missed),
                    false => {
                        let second = (1.0 - missed) * weights[b] / (8.0 - weights[a]);
                        (vec![a, b], first * second)
                    }
                }
            })
            // The first alone is not to be expected of one that weighs little.
            .filter(|(_, share)| share * DRAWS as f64 > 5.0)
            .collect();
        pairs.retain(|pair, _| pair != &[0]);
        // 7 degrees of freedom.
        assert_fits(&pairs, &expected, 24.32);

        let draw = weighted(&[1e12, 1.0, 1.0]);
        assert!((0..DRAWS).all(|_| draw.pair(3, &caller) == (0, None)));
    }

    #[test]
    fn one_that_outweighs_all_others_leaves_a_second_choice() {
        let draw = weighted(&[1e12, 1.0, 1.0]);
        let second = [1, 2].map(|other| (vec![0, other], 0.5));
        assert_fits(&sequences(&draw, 3, 2), &second, 10.83);
    }
}
