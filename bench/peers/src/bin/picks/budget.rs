//! What a pick of the core may cost.

use crate::measure::Row;

const AT_MOST_NS: f64 = 15.0;

/// So many times must pingora's selection take, by the same rule.
const TIMES_PINGORA: f64 = 10.0;

const PAIRS: [(&str, &str); 2] = [
    ("grpc_lb_core, round_robin", "pingora, round robin"),
    ("grpc_lb_core, random", "pingora, random"),
];

/// The budgets that are missed, in words.
pub fn missed(rows: &[Row]) -> Vec<String> {
    let one_thread = |row: &&Row| row.threads == 1;
    let pairs = PAIRS.iter().flat_map(|(own, peer)| {
        let own = rows.iter().filter(|row| row.name == *own);
        own.filter(one_thread).map(move |own| {
            let peer = rows
                .iter()
                .filter(one_thread)
                .find(|row| row.name == *peer && row.backends == own.backends);
            (own, peer.expect("both were measured"))
        })
    });
    pairs
        .flat_map(|(own, peer)| {
            let what = format!("{}, {} backends", own.name, own.backends);
            let slow = (own.median > AT_MOST_NS)
                .then(|| format!("{what}: {:.1} ns, at most {AT_MOST_NS}", own.median));
            let times = peer.median / own.median;
            let near = (times < TIMES_PINGORA).then(|| {
                format!(
                    "{what}: {} takes {times:.1} times that, at least {TIMES_PINGORA}",
                    peer.name
                )
            });
            [slow, near].into_iter().flatten()
        })
        .collect()
}
