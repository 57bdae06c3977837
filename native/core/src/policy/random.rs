//! random: any backend, each as likely as its weight says; with equal weights as Envoy's policy of
//! that name.

use super::alias::Alias;
use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use crate::caller::Caller;

/// Nothing can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config;

pub(crate) struct Picker(Option<Alias>);

impl PolicyConfig for Config {
    const NAME: &'static str = "random";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        if !with.weighted {
            return Picker(None);
        }
        let weights = (0..list.len()).map(|index| list.load(index).weight());
        Picker(Alias::new(&weights.collect::<Vec<f64>>()))
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        match &self.0 {
            None => caller.random_below(candidates.len()),
            Some(alias) => alias.pick(caller.random()),
        }
    }
}
