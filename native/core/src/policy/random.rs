//! random: any backend, each as likely as its weight says; with equal weights as Envoy's policy of
//! that name.

use super::alias::Alias;
use crate::caller::Caller;
use crate::rows::Rows;

pub(crate) struct Picker(Option<Alias>);

pub(crate) fn build<T>(rows: &Rows<T>, weighted: bool) -> Picker {
    if !weighted {
        return Picker(None);
    }
    let weights: Vec<f64> = rows.iter().map(|row| row.entry.load.weight()).collect();
    Picker(Alias::new(&weights))
}

impl Picker {
    #[inline]
    pub(crate) fn pick(&self, n: usize, caller: &Caller) -> usize {
        match &self.0 {
            None => caller.random_below(n),
            Some(alias) => alias.pick(caller.random()),
        }
    }
}
