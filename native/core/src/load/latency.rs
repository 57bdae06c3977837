//! Latency of a backend's calls: an exponentially weighted moving average, lock-free.
//!
//! As time passes an estimate decays: `estimate * exp(-passed / decay)`. So the estimate and the
//! time that it is of need not be kept apart. Kept is one number, the *score*: the time at which the
//! estimate will have decayed to a nanosecond, `updated + decay * ln(estimate)`. It stays the same
//! while the estimate decays, the order of two scores is the order of the estimates at any time, and
//! it cannot be torn.
//!
//! A score means something beside its decay only. So it carries the [tag](Decay) of that: when the
//! decay of a live balancer changes, a sample that was averaged with the other one is left out.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// Scores are in nanoseconds, which tells estimates apart that differ by 1e-9 of them with a decay of
/// a second, and goes up to 73 years. Below them are the bits of the tag.
const TAG_BITS: u32 = 2;

const TAGS: i64 = (1 << TAG_BITS) - 1;

/// The score of what is infinite, because there was no sample yet.
pub(crate) const UNKNOWN: i64 = i64::MAX >> TAG_BITS;

/// Set in `updated` while there was no sample and no initial value.
const UNTRIED: u64 = 1 << 63;

/// How fast an estimate is forgotten, prepared: in such a time it loses all but 37 % of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decay {
    nanoseconds: f64,
    /// To multiply by: a division takes as long as all the rest of an average.
    per_nanosecond: f64,
    /// Tells it apart from those that came shortly before it.
    tag: i64,
}

impl Decay {
    fn new(nanoseconds: f64, tag: i64) -> Decay {
        Decay {
            nanoseconds,
            per_nanosecond: 1.0 / nanoseconds,
            tag,
        }
    }

    /// This, as what replaces `last`.
    pub(crate) fn after(self, last: Decay) -> Decay {
        let tag = match self.nanoseconds == last.nanoseconds {
            true => last.tag,
            false => (last.tag + 1) & TAGS,
        };
        Decay { tag, ..self }
    }

    /// In one word, for an atomic.
    pub(crate) fn to_bits(self) -> u64 {
        (self.nanoseconds as u64) << TAG_BITS | self.tag as u64
    }

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Decay {
        Decay::new((bits >> TAG_BITS) as f64, bits as i64 & TAGS)
    }
}

impl From<Duration> for Decay {
    /// What is shorter than a millisecond counts as that, as in linkerd, and what is longer than the
    /// 73 years of scores as those.
    fn from(duration: Duration) -> Self {
        const MIN: Duration = Duration::from_millis(1);
        const MAX: Duration = Duration::from_nanos(UNKNOWN as u64);
        Decay::new(duration.clamp(MIN, MAX).as_nanos() as f64, 0)
    }
}

/// An estimate of the latency, in nanoseconds, which many threads update at once.
///
/// `decay` is an argument of all that needs it, and the same until [`Latency::convert`].
///
/// ```
/// use std::time::Duration;
/// use grpc_lb_core::testing::{Latency, Rule};
/// use grpc_lb_core::Time;
///
/// let decay = Duration::from_secs(10);
/// let at = |seconds: u64| Time(seconds * 1_000_000_000);
/// let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 1e-9;
///
/// let latency = Latency::new(f64::INFINITY, at(0), decay);
/// latency.sample(100.0, at(1), decay, Rule::Peak);
/// assert!(near(latency.projected(at(11), decay), 100.0 * (-1.0_f64).exp()));
/// // Slower than that: replaces what it has decayed to.
/// latency.sample(50.0, at(11), decay, Rule::Peak);
/// assert!(near(latency.estimate(decay), 50.0));
/// ```
#[derive(Debug)]
pub struct Latency {
    /// A score and a tag, see `pack`.
    score: AtomicU64,
    /// Up to when the time has been given to samples, in nanoseconds.
    updated: AtomicU64,
}

/// What a sample does to the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One above what the estimate has decayed to replaces it; others are blended in. So slowness
    /// is noticed at once and forgiven slowly.
    Peak,
    /// All are blended in, each with the weight of the time since the one before.
    Plain,
}

/// How far above what is usual, at that time, a sample may raise an estimate.
///
/// An estimate that is raised loses its lead as time passes, and a policy that takes the least shuns
/// the backend for that long. So that time is what is bounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// What calls usually take, in nanoseconds.
    pub usual: f64,
    /// How long it takes at most until the raised estimate is down to what it was, or to what is usual
    /// if it was less, in nanoseconds.
    pub shunned: f64,
}

impl Bound {
    /// The score that a sample leads to where `score` is the last one. The larger one leads to the
    /// larger score, whatever the bound.
    fn apply(&self, nanoseconds: f64, score: i64, now: Time, decay: Decay) -> i64 {
        let usual = score_of(self.usual, now, decay);
        let base = match score {
            UNKNOWN => usual,
            known => known.max(usual),
        };
        let wanted = score_of(nanoseconds, now, decay);
        if wanted <= base {
            return wanted;
        }
        let lead = wanted.saturating_sub(base) as f64;
        let decays = lead * decay.per_nanosecond;
        base.saturating_add(nearest(lead.min(self.shunned * decays / (1.0 + decays))))
    }
}

impl Latency {
    /// An estimate of `initial` nanoseconds, above 0. The first sample replaces
    /// [`f64::INFINITY`].
    pub fn new(initial: f64, now: Time, decay: impl Into<Decay>) -> Self {
        let decay = decay.into();
        let untried = if initial == f64::INFINITY { UNTRIED } else { 0 };
        Latency {
            score: AtomicU64::new(pack(score_of(initial, now, decay), decay)),
            updated: AtomicU64::new(now.0 | untried),
        }
    }

    /// Takes a call into account that took `nanoseconds` and ended `now`.
    ///
    /// One that is not later than the last is not blended in, since no time has passed for it. What
    /// is no duration (negative, infinite, NaN) is ignored.
    #[inline]
    pub fn sample(&self, nanoseconds: f64, now: Time, decay: impl Into<Decay>, rule: Rule) {
        self.average(nanoseconds, now, decay.into(), rule, None);
    }

    /// As [`Latency::sample`] of a peak EWMA, where a peak raises the estimate no further than the
    /// bound has it.
    #[inline]
    pub(crate) fn sample_within(&self, bound: Bound, nanoseconds: f64, now: Time, decay: Decay) {
        self.average(nanoseconds, now, decay, Rule::Peak, Some(bound));
    }

    #[inline]
    fn average(&self, nanoseconds: f64, now: Time, decay: Decay, rule: Rule, bound: Option<Bound>) {
        if !(0.0..f64::INFINITY).contains(&nanoseconds) {
            return;
        }
        // Acquire and Release: a thread that sees a score sees that its time was claimed. It is loaded before
        // time is claimed, so that a change of it in between is noticed.
        let mut packed = self.score.load(Ordering::Acquire);
        let mut weight = self.claim(now, decay, rule);
        loop {
            if packed as i64 & TAGS != decay.tag {
                // Converted meanwhile.
                return;
            }
            let score = unpack(packed);
            // How large the sample is beside what the estimate has decayed to. An unknown estimate
            // has no weight beside a sample.
            let relative = match score {
                UNKNOWN => f64::INFINITY,
                known => nanoseconds * age(known, now, decay).exp(),
            };
            let next = if rule == Rule::Peak && relative > 1.0 {
                match bound {
                    None => score_of(nanoseconds, now, decay),
                    Some(bound) => bound.apply(nanoseconds, score, now, decay),
                }
            } else if weight > 0.0 {
                match relative * weight {
                    // ln(projected + nanoseconds * weight) is ln(projected) and what this adds.
                    more if more.is_finite() => {
                        score.saturating_add(nearest(decay.nanoseconds * ln_1p(more)))
                    }
                    _ => score_of(nanoseconds * weight, now, decay),
                }
            } else {
                return;
            };
            let (new, old) = (Ordering::Release, Ordering::Acquire);
            let next = pack(next, decay);
            match self.score.compare_exchange(packed, next, new, old) {
                Ok(_) => return,
                Err(newer) => packed = newer,
            }
            if rule == Rule::Peak {
                // What came between may have replaced the estimate, and time from before a peak is
                // not to be added to it. A sample below the estimate may be left out.
                weight = 0.0;
            }
        }
    }

    /// Takes into account that a call took this long at least: what the estimate has decayed to is
    /// raised to that, and never lowered. Among samples, it counts as a peak.
    pub(crate) fn raise(&self, nanoseconds: f64, now: Time, decay: Decay, bound: Option<Bound>) {
        // Acquire and Release: as in `sample`.
        let mut packed = self.score.load(Ordering::Acquire);
        loop {
            if packed as i64 & TAGS != decay.tag {
                return;
            }
            let score = unpack(packed);
            let wanted = match bound {
                None => score_of(nanoseconds, now, decay),
                Some(bound) => bound.apply(nanoseconds, score, now, decay),
            };
            let next = match (score, bound) {
                (UNKNOWN, Some(bound)) => wanted.max(score_of(bound.usual, now, decay)),
                (UNKNOWN, None) => wanted,
                (known, _) if wanted <= known => return,
                _ => wanted,
            };
            // Time from before a peak is not to be added to it.
            self.claim(now, decay, Rule::Peak);
            let (new, old) = (Ordering::Release, Ordering::Acquire);
            let next = pack(next, decay);
            match self.score.compare_exchange(packed, next, new, old) {
                Ok(_) => return,
                Err(newer) => packed = newer,
            }
        }
    }

    /// How long ago the estimate was last told anything.
    pub(crate) fn silence(&self, now: Time) -> Duration {
        // Relaxed: what is outdated is a little too long ago.
        now.since(Time(self.updated.load(Ordering::Relaxed) & !UNTRIED))
    }

    /// Whether the estimate has decayed to no more than this.
    pub(crate) fn is_within(&self, nanoseconds: f64, now: Time, decay: Decay) -> bool {
        self.score() <= score_of(nanoseconds, now, decay)
    }

    /// Takes the time since the last sample, and says the weight of the sample to which that
    /// belongs; 0 if there is none left.
    ///
    /// No two samples get the same time, and blending adds. So with [`Rule::Plain`], samples that
    /// come at once may be blended in in any order, and none is lost.
    fn claim(&self, now: Time, decay: Decay, rule: Rule) -> f64 {
        let newer = |updated: u64| {
            let replaces = rule == Rule::Peak && updated & UNTRIED != 0;
            (now.0 > updated & !UNTRIED || replaces).then_some(now.0)
        };
        // Relaxed: it is the Release of the score that publishes both.
        let relaxed = Ordering::Relaxed;
        match self.updated.fetch_update(relaxed, relaxed, newer) {
            Err(_) => 0.0,
            Ok(updated) if updated & UNTRIED != 0 => 1.0,
            Ok(updated) => {
                let passed = now.0.saturating_sub(updated) as f64;
                -exp_m1(-passed * decay.per_nanosecond)
            }
        }
    }

    /// What the estimate has decayed to; stores nothing, as in linkerd. Before the last sample it
    /// is what it was then.
    pub fn projected(&self, now: Time, decay: impl Into<Decay>) -> f64 {
        // In this order, the time is no older than the score.
        let score = unpack(self.score.load(Ordering::Acquire));
        let updated = Time(self.updated.load(Ordering::Relaxed) & !UNTRIED);
        estimate_of(score, now.max(updated), decay.into())
    }

    /// The estimate as of the last sample.
    pub fn estimate(&self, decay: impl Into<Decay>) -> f64 {
        self.projected(Time(0), decay)
    }

    /// What is to be compared to find the backend with the least estimate at the moment, whichever
    /// moment that is: one load, and no clock.
    #[inline]
    pub fn score(&self) -> i64 {
        // Relaxed: any recent score will do, and nothing else is read.
        unpack(self.score.load(Ordering::Relaxed))
    }

    /// The same, to find the one with the least estimate as of its last sample, however long ago that
    /// is.
    #[inline]
    pub(crate) fn last_score(&self) -> i64 {
        match self.score() {
            UNKNOWN => UNKNOWN,
            // Relaxed: one that is a sample older or newer is as good.
            known => known - (self.updated.load(Ordering::Relaxed) & !UNTRIED) as i64,
        }
    }

    /// Goes over to another decay. The estimate as of the last sample stays, and decays from then
    /// on as `to` says.
    ///
    /// ```
    /// use std::time::Duration;
    /// use grpc_lb_core::testing::{Decay, Latency};
    /// use grpc_lb_core::Time;
    ///
    /// let [ten, one] = [10, 1].map(|seconds| Decay::from(Duration::from_secs(seconds)));
    /// let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 1e-7;
    ///
    /// let latency = Latency::new(30e6, Time(0), ten);
    /// latency.convert(ten, one);
    /// assert!(near(latency.estimate(one), 30e6));
    /// assert!(near(latency.projected(Time(1_000_000_000), one), 30e6 * (-1.0_f64).exp()));
    /// ```
    pub fn convert(&self, from: Decay, to: Decay) {
        let convert = |packed| {
            let score = unpack(packed);
            // After the score, so that it is no older.
            let updated = Time(self.updated.load(Ordering::Relaxed) & !UNTRIED);
            let next = match score {
                UNKNOWN => UNKNOWN,
                known => {
                    let decays = -age(known, updated, from);
                    nanoseconds(updated).saturating_add(nearest(to.nanoseconds * decays))
                }
            };
            Some(pack(next, to))
        };
        // As in `sample`.
        let (new, old) = (Ordering::Release, Ordering::Acquire);
        let converted = self.score.fetch_update(new, old, convert);
        converted.expect("there is always a next one");
    }
}

fn pack(score: i64, decay: Decay) -> u64 {
    let score = score.clamp(i64::MIN >> TAG_BITS, UNKNOWN);
    (score << TAG_BITS | decay.tag) as u64
}

#[inline]
fn unpack(packed: u64) -> i64 {
    packed as i64 >> TAG_BITS
}

/// What is to be added to a score for the estimate times `factor`.
///
/// peak EWMA's factor is the number of calls in flight, and one.
///
/// ```
/// use std::time::Duration;
/// use grpc_lb_core::testing::{gain, Latency};
/// use grpc_lb_core::Time;
///
/// let decay = Duration::from_secs(10);
/// let [fast, slow] = [1e6, 4e6].map(|initial| Latency::new(initial, Time(0), decay));
/// assert!(fast.score() + gain(3.0, decay) < slow.score());
/// assert!(fast.score() + gain(5.0, decay) > slow.score());
/// ```
#[inline]
pub fn gain(factor: f64, decay: impl Into<Decay>) -> i64 {
    nearest(decay.into().nanoseconds * factor.ln())
}

/// The same for the first of two counts, by the second. Neither is 0.
#[inline]
pub(crate) fn gain_by_counts([by, of]: [u32; 2], decay: Decay) -> i64 {
    if by == of {
        return 0;
    }
    match [by, of].map(|count| LOGARITHMS.get(count as usize)) {
        [Some(by), Some(of)] => nearest(decay.nanoseconds * (by - of)),
        _ => gain(f64::from(by) / f64::from(of), decay),
    }
}

/// Of the first numbers; that of 0 is never asked for. The library's takes as long as all the rest of
/// a pick that compares two backends.
const LOGARITHMS: [f64; 64] = {
    let mut logarithms = [0.0; 64];
    let mut n = 2;
    while n < logarithms.len() {
        // Of n / (n - 1): twice the series of the area tangent, which is exact after so many terms.
        let x = 1.0 / (2 * n - 1) as f64;
        let (mut power, mut sum, mut k) = (x, 0.0, 1);
        while k < 40 {
            sum += power / k as f64;
            power *= x * x;
            k += 2;
        }
        logarithms[n] = logarithms[n - 1] + 2.0 * sum;
        n += 1;
    }
    logarithms
};

fn nanoseconds(now: Time) -> i64 {
    i64::try_from(now.0).unwrap_or(i64::MAX)
}

/// Casts and `pack` saturate: infinity becomes [`UNKNOWN`], and 0 what no time will ever be near to.
fn score_of(estimate: f64, now: Time, decay: Decay) -> i64 {
    let score = nanoseconds(now).saturating_add(nearest(decay.nanoseconds * estimate.ln()));
    score.min(UNKNOWN)
}

fn estimate_of(score: i64, now: Time, decay: Decay) -> f64 {
    match score {
        UNKNOWN => f64::INFINITY,
        known => (-age(known, now, decay)).exp(),
    }
}

/// The time since an estimate was a nanosecond, in decays; below 0 as long as it is more than that.
#[inline]
fn age(score: i64, now: Time, decay: Decay) -> f64 {
    nanoseconds(now).saturating_sub(score) as f64 * decay.per_nanosecond
}

/// `f64::round` calls a function where the processor need not have an instruction for it.
#[inline]
fn nearest(number: f64) -> i64 {
    (number + 0.5_f64.copysign(number)) as i64
}

/// Below this the series of the two functions that follow are exact to 1e-12 of their value, and
/// far faster than the library's. Nearly all samples are: calls end more often than 64 times in a
/// decay, which is ten seconds.
const SMALL: f64 = 1.0 / 64.0;

/// `f64::exp_m1`
#[inline]
fn exp_m1(x: f64) -> f64 {
    const FACTORS: [f64; 6] = [
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
    ];
    match x.abs() < SMALL {
        true => series(x, FACTORS),
        false => x.exp_m1(),
    }
}

/// `f64::ln_1p`
#[inline]
fn ln_1p(x: f64) -> f64 {
    const FACTORS: [f64; 7] = [
        1.0,
        -1.0 / 2.0,
        1.0 / 3.0,
        -1.0 / 4.0,
        1.0 / 5.0,
        -1.0 / 6.0,
        1.0 / 7.0,
    ];
    match x.abs() < SMALL {
        true => series(x, FACTORS),
        false => x.ln_1p(),
    }
}

/// Factors for `x`, its square, and so on.
#[inline]
fn series<const N: usize>(x: f64, factors: [f64; N]) -> f64 {
    let sum = factors.into_iter().rev();
    x * sum.fold(0.0, |sum, factor| sum * x + factor)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DECAY: Duration = Duration::from_secs(10);
    const MS: f64 = 1e6;
    const YEARS_30: u64 = 30 * 365 * 86_400 * 1_000_000_000;

    fn at(seconds: f64) -> Time {
        Time((seconds * 1e9) as u64)
    }

    fn near(got: f64, expected: f64) -> bool {
        got == expected || (got - expected).abs() <= 1e-9 * expected
    }

    #[test]
    fn gains_by_counts_are_those_by_their_quotient() {
        let decay = Decay::from(Duration::from_secs(10));
        for by in 1..100_u32 {
            for of in 1..100_u32 {
                let exact = gain(f64::from(by) / f64::from(of), decay);
                assert!(
                    gain_by_counts([by, of], decay).abs_diff(exact) <= 1,
                    "{by} {of}"
                );
            }
        }
    }

    #[test]
    fn the_series_are_the_functions() {
        for i in -3_000..3_000 {
            let x = f64::from(i) / 100_000.0;
            for (got, expected) in [(exp_m1(x), x.exp_m1()), (ln_1p(x), x.ln_1p())] {
                assert!(
                    (got - expected).abs() <= 1e-12 * expected.abs(),
                    "{x}: {got}"
                );
            }
        }
    }

    #[test]
    fn it_takes_16_bytes() {
        assert_eq!(size_of::<Latency>(), 16);
    }

    #[test]
    fn a_slower_sample_replaces_and_a_faster_one_is_blended_in() {
        let latency = Latency::new(30.0 * MS, at(0.0), DECAY);
        latency.sample(40.0 * MS, at(1.0), DECAY, Rule::Peak);
        assert!(near(latency.estimate(DECAY), 40.0 * MS));
        latency.sample(10.0 * MS, at(3.0), DECAY, Rule::Peak);
        let kept = (-0.2_f64).exp();
        let blended = 40.0 * MS * kept + 10.0 * MS * (1.0 - kept);
        assert!(near(latency.estimate(DECAY), blended));
        // As of the last sample.
        assert!(near(latency.projected(at(2.0), DECAY), blended));
    }

    #[test]
    fn a_plain_average_is_not_replaced() {
        let latency = Latency::new(30.0 * MS, at(0.0), DECAY);
        latency.sample(40.0 * MS, at(1.0), DECAY, Rule::Plain);
        let kept = (-0.1_f64).exp();
        let blended = 30.0 * MS * kept + 40.0 * MS * (1.0 - kept);
        assert!(near(latency.estimate(DECAY), blended));
    }

    #[test]
    fn only_a_peak_counts_when_no_time_has_passed() {
        let latency = Latency::new(30.0 * MS, at(2.0), DECAY);
        for now in [1.0, 2.0] {
            latency.sample(99.0 * MS, at(now), DECAY, Rule::Plain);
            latency.sample(1.0 * MS, at(now), DECAY, Rule::Peak);
            assert!(near(latency.estimate(DECAY), 30.0 * MS));
        }
        latency.sample(99.0 * MS, at(2.0), DECAY, Rule::Peak);
        assert!(near(latency.estimate(DECAY), 99.0 * MS));
    }

    #[test]
    fn the_first_sample_replaces_an_unknown_estimate() {
        for rule in [Rule::Peak, Rule::Plain] {
            let latency = Latency::new(f64::INFINITY, at(0.0), DECAY);
            assert_eq!(latency.projected(at(50.0), DECAY), f64::INFINITY);
            latency.sample(7.0, at(0.001), DECAY, rule);
            assert!(near(latency.estimate(DECAY), 7.0));
        }
    }

    #[test]
    fn what_is_no_duration_is_ignored() {
        let latency = Latency::new(30.0 * MS, at(0.0), DECAY);
        for sample in [f64::NAN, f64::INFINITY, -1.0, f64::NEG_INFINITY] {
            latency.sample(sample, at(5.0), DECAY, Rule::Peak);
            latency.sample(sample, at(5.0), DECAY, Rule::Plain);
        }
        assert!(near(latency.estimate(DECAY), 30.0 * MS));
    }

    #[test]
    fn zero_is_an_estimate_too() {
        let latency = Latency::new(f64::INFINITY, at(0.0), DECAY);
        latency.sample(0.0, at(1.0), DECAY, Rule::Peak);
        assert_eq!(latency.estimate(DECAY), 0.0);
        latency.sample(0.0, at(2.0), DECAY, Rule::Plain);
        latency.sample(5.0, at(3.0), DECAY, Rule::Peak);
        assert!(near(latency.estimate(DECAY), 5.0));
    }

    #[test]
    fn long_idleness_forgets_all() {
        let latency = Latency::new(30.0 * MS, at(0.0), DECAY);
        assert_eq!(latency.projected(at(1e6), DECAY), 0.0);
        latency.sample(2.0 * MS, at(1e6), DECAY, Rule::Plain);
        assert!(near(latency.estimate(DECAY), 2.0 * MS));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn what_is_rounded_does_not_add_up() {
        let latency = Latency::new(3.0 * MS, at(0.0), DECAY);
        let mut model = Model {
            estimate: 3.0 * MS,
            updated: at(0.0),
        };
        for i in 1..=100_000 {
            let (sample, now) = ([2.0, 4.0][i as usize % 2] * MS, Time(1_000 * i));
            latency.sample(sample, now, DECAY, Rule::Plain);
            model.sample(sample, now, DECAY, Rule::Plain);
        }
        assert!((latency.estimate(DECAY) / model.estimate - 1.0).abs() < 1e-7);
    }

    #[test]
    fn at_its_creation_an_unknown_estimate_takes_only_a_peak() {
        let latency = Latency::new(f64::INFINITY, at(1.0), DECAY);
        latency.sample(7.0 * MS, at(1.0), DECAY, Rule::Plain);
        assert_eq!(latency.estimate(DECAY), f64::INFINITY);
        latency.sample(7.0 * MS, at(1.0), DECAY, Rule::Peak);
        assert!(near(latency.estimate(DECAY), 7.0 * MS));
        // That was the first, so what comes next is blended in.
        latency.sample(2.0 * MS, at(2.0), DECAY, Rule::Peak);
        let kept = (-0.1_f64).exp();
        let blended = 7.0 * MS * kept + 2.0 * MS * (1.0 - kept);
        assert!(near(latency.estimate(DECAY), blended));
    }

    #[test]
    fn a_short_decay_counts_as_a_millisecond() {
        let latency = Latency::new(100.0, at(0.0), Duration::ZERO);
        let projected = latency.projected(at(0.001), Duration::ZERO);
        assert!((projected / (100.0 * (-1.0_f64).exp()) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn calls_in_flight_weigh_as_much_as_latency() {
        let latency = |ms: f64| Latency::new(ms * MS, at(0.0), DECAY);
        let score = |ms, calls| latency(ms).score() + gain(calls, DECAY);
        assert!(score(10.0, 3.0) < score(31.0, 1.0));
        assert!(score(10.0, 3.0) > score(29.0, 1.0));
        assert!(score(f64::INFINITY, 1.0) > score(1e9, 1_000.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn samples_of_many_threads_leave_an_average_of_them() {
        for rule in [Rule::Peak, Rule::Plain] {
            let latency = Latency::new(f64::INFINITY, at(0.0), DECAY);
            let clock = std::sync::atomic::AtomicU64::new(1);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (latency, clock) = (&latency, &clock);
                    scope.spawn(move || {
                        for i in 0..20_000 {
                            let now = clock.fetch_add(500_000, Ordering::Relaxed);
                            let sample = (10.0 + (i % 5) as f64 + thread as f64) * MS;
                            latency.sample(sample, Time(now), DECAY, rule);
                            let seen = latency.estimate(DECAY);
                            assert!(seen <= 17.001 * MS || seen == f64::INFINITY, "{seen}");
                        }
                    });
                }
            });
            let left = latency.estimate(DECAY);
            assert!((9.9 * MS..17.001 * MS).contains(&left), "{left}");
        }
    }

    /// linkerd's rules as they are told, for one thread.
    struct Model {
        estimate: f64,
        updated: Time,
    }

    impl Model {
        fn sample(&mut self, sample: f64, now: Time, decay: Duration, rule: Rule) {
            let passed = now.since(self.updated).as_secs_f64() / decay.as_secs_f64();
            let projected = self.estimate * (-passed).exp();
            if self.estimate == f64::INFINITY || (rule == Rule::Peak && projected < sample) {
                self.estimate = sample;
            } else {
                self.estimate = projected + sample * (1.0 - (-passed).exp());
            }
            self.updated = now;
        }
    }

    fn initial() -> impl Strategy<Value = f64> {
        prop_oneof![Just(f64::INFINITY), 1e3..1e11]
    }

    fn samples() -> impl Strategy<Value = Vec<(f64, u64)>> {
        prop::collection::vec(
            (prop_oneof![Just(0.0), 1e3..1e11], 1..5_000_000_000u64),
            1..20,
        )
    }

    proptest! {
        #[test]
        fn it_is_what_linkerd_has(
            initial in initial(),
            samples in samples(),
            start in prop_oneof![Just(0), Just(YEARS_30)],
            peak in any::<bool>(),
        ) {
            let rule = if peak { Rule::Peak } else { Rule::Plain };
            let mut now = Time(start);
            let latency = Latency::new(initial, now, DECAY);
            let mut model = Model { estimate: initial, updated: now };
            for (sample, later) in samples {
                now = now + Duration::from_nanos(later);
                latency.sample(sample, now, DECAY, rule);
                model.sample(sample, now, DECAY, rule);
                let (got, expected) = (latency.estimate(DECAY), model.estimate);
                prop_assert!(near(got, expected), "{} instead of {}", got, expected);
            }
        }

        #[test]
        fn a_plain_average_is_between_the_least_and_the_most(
            initial in initial(), samples in samples(), decay_ms in 0..100_000u64,
        ) {
            let decay = Duration::from_millis(decay_ms);
            let mut now = at(0.0);
            let latency = Latency::new(initial, now, decay);
            let known = |value: &f64| value.is_finite();
            let (mut least, mut most) = Some(initial)
                .filter(known)
                .map_or((f64::INFINITY, 0.0), |it| (it, it));
            for (sample, later) in samples {
                now = now + Duration::from_nanos(later);
                latency.sample(sample, now, decay, Rule::Plain);
                (least, most) = (least.min(sample), most.max(sample));
                let got = latency.estimate(decay);
                prop_assert!(least * (1.0 - 1e-5) <= got && got <= most * (1.0 + 1e-5));
            }
        }

        #[test]
        fn a_peak_is_never_above_the_most_nor_below_the_last(
            initial in 1e3..1e11, samples in samples(),
        ) {
            let mut now = at(0.0);
            let latency = Latency::new(initial, now, DECAY);
            let mut most: f64 = initial;
            for (sample, later) in samples {
                now = now + Duration::from_nanos(later);
                latency.sample(sample, now, DECAY, Rule::Peak);
                most = most.max(sample);
                let got = latency.estimate(DECAY);
                prop_assert!(sample * (1.0 - 1e-9) <= got && got <= most * (1.0 + 1e-9));
            }
        }

        #[test]
        fn the_order_of_scores_is_that_of_projections(
            a in 1e3..1e11, b in 1e3..1e11, calls in 1..1_000u32, started in 0..1_000u64,
            now in 1_000..1_050u64,
        ) {
            let (busy, idle) = (
                Latency::new(a, Time(started * 1_000_000_000), DECAY),
                Latency::new(b, at(1_000.0), DECAY),
            );
            let now = Time(now * 1_000_000_000);
            let calls = f64::from(calls);
            let (of_busy, of_idle) =
                (busy.projected(now, DECAY) * calls, idle.projected(now, DECAY));
            if (of_busy / of_idle - 1.0).abs() > 1e-8 {
                let scores = (busy.score() + gain(calls, DECAY), idle.score());
                prop_assert_eq!(of_busy < of_idle, scores.0 < scores.1);
            }
        }

        #[test]
        fn never_nan_and_never_negative(
            initial in any::<f64>(),
            samples in prop::collection::vec((any::<f64>(), any::<u64>(), any::<bool>()), 0..20),
            decay in any::<u64>(),
        ) {
            let decay = Duration::from_nanos(decay);
            let latency = Latency::new(initial, Time(5), decay);
            for (sample, now, peak) in samples {
                let rule = if peak { Rule::Peak } else { Rule::Plain };
                latency.sample(sample, Time(now), decay, rule);
                prop_assert!(latency.estimate(decay) >= 0.0);
                prop_assert!(latency.projected(Time(now), decay) >= 0.0);
            }
        }
    }
}
