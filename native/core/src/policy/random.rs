//! random: any backend, each as likely as the others, as Envoy's policy of that name.

use crate::caller::Caller;

#[inline]
pub(crate) fn pick(n: usize, caller: &Caller) -> usize {
    caller.random_below(n)
}
