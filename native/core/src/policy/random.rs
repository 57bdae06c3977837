//! random: any backend, each as likely as its weight says; with equal weights as Envoy's policy of
//! that name.

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use super::draw::Draw;
use crate::caller::Caller;

/// Nothing can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config;

pub(crate) struct Picker(Draw);

impl PolicyConfig for Config {
    const NAME: &'static str = "random";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        Picker(Draw::new(list, with.weighted))
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        self.0.one(candidates.len(), caller)
    }
}
