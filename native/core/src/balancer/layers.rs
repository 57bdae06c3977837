//! Layers of a balancer: the backends of each priority and locality, and which of them serve.

use crate::backend::Backend;
use crate::config::Config;
use crate::health::priority::{self, availability, Level};
use crate::health::{Census, Relief, Standing};
use crate::share::{Shares, Turns};
use crate::snapshot::{First, Order};
use crate::sync::AtomicU64;

use smallvec::SmallVec;
use triomphe::Arc;

/// The layers that a balancer has, each with a group in its snapshot at the same index. Most have one.
pub(super) struct Layers {
    layers: Vec<Layer>,
    /// Indices by priority, and by locality in one priority.
    sorted: SmallVec<[u32; 2]>,
    /// Indices of those of which nobody is listed, and of some that were so.
    empty: Vec<u32>,
    /// Of all layers.
    census: Census,
    /// The turns of all, taken by picks while several serve. Made when several first do.
    turns: Option<Arc<AtomicU64>>,
}

/// The backends of one locality of one priority.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) priority: u32,
    pub(super) locality: Option<Box<str>>,
    /// How many are listed.
    pub(super) listed: u32,
    /// Whether it is among those that are taken for empty.
    noted_empty: bool,
    pub(super) census: Census,
    /// Who is picked beside the healthy ones.
    pub(super) relief: Relief,
    /// Its part of the picks, as the last snapshot has it.
    pub(super) share: f64,
}

impl Layer {
    fn key(&self) -> (u32, Option<&str>) {
        (self.priority, self.locality.as_deref())
    }

    /// Whether a backend that is offered is one of it.
    pub(super) fn is_of<O>(&self, offered: &Backend<O>) -> bool {
        self.key() == (offered.priority, offered.locality.as_deref())
    }

    /// How many of its backends are used: all, or those in the subset.
    pub(super) fn used(&self) -> u32 {
        self.listed - self.census.outside()
    }

    /// How healthy it is, as Envoy counts.
    fn level(&self) -> Level {
        Level {
            listed: self.used(),
            counted: self.census.counted() + self.census.lost(),
            healthy: self.census.healthy(),
        }
    }
}

impl Layers {
    pub(super) fn new() -> Self {
        Layers {
            layers: Vec::new(),
            sorted: SmallVec::new(),
            empty: Vec::new(),
            census: Census::default(),
            turns: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn get(&self, layer: u32) -> &Layer {
        &self.layers[layer as usize]
    }

    /// By priority, and by locality in one priority; without those of which no backend is used.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Layer> {
        let layers = self.sorted.iter().map(|layer| self.get(*layer));
        layers.filter(|layer| layer.used() > 0)
    }

    /// Of all layers.
    pub(super) fn census(&self) -> Census {
        self.census
    }

    /// The layer of a backend that is offered; a new one takes the place of one that is empty.
    pub(super) fn find_or_add<O>(&mut self, offered: &Backend<O>) -> u32 {
        let wanted = (offered.priority, offered.locality.as_deref());
        let place = match self.place(wanted) {
            Ok(place) => return self.sorted[place],
            Err(place) => place,
        };
        let layer = Layer {
            priority: offered.priority,
            locality: offered.locality.clone(),
            ..Layer::default()
        };
        let (index, place) = match self.take_empty() {
            Some(index) => {
                let empty = self.place(self.get(index).key()).expect("it is there");
                self.sorted.remove(empty);
                self.layers[index as usize] = layer;
                (index, place - usize::from(empty < place))
            }
            None => {
                if self.layers.is_empty() {
                    // Room for one, and not for the four that a vector begins with.
                    self.layers.reserve_exact(1);
                }
                self.layers.push(layer);
                (self.layers.len() as u32 - 1, place)
            }
        };
        self.sorted.insert(place, index);
        index
    }

    fn place(&self, wanted: (u32, Option<&str>)) -> Result<usize, usize> {
        self.sorted
            .binary_search_by(|layer| self.get(*layer).key().cmp(&wanted))
    }

    fn take_empty(&mut self) -> Option<u32> {
        while let Some(index) = self.empty.pop() {
            let layer = &mut self.layers[index as usize];
            layer.noted_empty = false;
            if layer.listed == 0 {
                return Some(index);
            }
        }
        None
    }

    /// Counts one that is listed from now on, or not any more.
    pub(super) fn count(&mut self, layer: u32, listed: bool) {
        let it = &mut self.layers[layer as usize];
        match listed {
            true => it.listed += 1,
            false => it.listed -= 1,
        }
        if it.listed == 0 && !it.noted_empty {
            it.noted_empty = true;
            self.empty.push(layer);
        }
    }

    /// Counts one that goes from one standing to another.
    pub(super) fn shift(&mut self, layer: u32, from: Standing, to: Standing) {
        self.layers[layer as usize].census.shift(from, to);
        self.census.shift(from, to);
    }

    /// Drops layers at the end that are empty. A balancer that has had several has one again.
    pub(super) fn trim(&mut self) {
        let before = self.layers.len();
        while self.layers.len() > 1 && self.layers.last().is_some_and(|last| last.listed == 0) {
            self.layers.pop();
        }
        let kept = self.layers.len();
        if kept < before {
            let is_kept = |layer: &u32| (*layer as usize) < kept;
            self.sorted.retain(|layer| is_kept(layer));
            self.empty.retain(is_kept);
            self.empty.shrink_to_fit();
        }
    }

    /// Decides who is picked beside the healthy ones, and says in which layers that has changed.
    ///
    /// All together are judged, or each priority for itself with an overprovisioning factor: there the
    /// others are asked first to take over.
    pub(super) fn update_relief(&mut self, config: &Config) -> Vec<u32> {
        let detection = config.outlier_detection.as_ref();
        let strict = detection.is_some_and(|detection| detection.strict);
        let mut relief = vec![self.census.relief(config.panic_threshold, strict); self.len()];
        if let Some(factor) = config.overprovisioning_factor {
            let levels = self.levels();
            let of_all = self.census.relief(0, strict);
            let measured: Vec<Level> = levels.iter().map(|level| self.level(level)).collect();
            let loads = priority::loads(&measured, factor.get(), config.panic_threshold);
            for (level, load) in levels.iter().zip(loads) {
                let of_level = if load.panics { Relief::All } else { of_all };
                level.iter().for_each(|it| relief[*it as usize] = of_level);
            }
        }
        let layers = (0..).zip(&mut self.layers).zip(relief);
        let changed = layers.filter_map(|((index, layer), relief)| {
            (std::mem::replace(&mut layer.relief, relief) != relief).then_some(index)
        });
        changed.collect()
    }

    /// Which priorities panic, if each is judged for itself, or whether all together do. Where there is
    /// nobody to pick there is no panic.
    pub(super) fn panicking(&self, config: &Config) -> Vec<Option<u32>> {
        let panics = |layer: &&Layer| layer.listed > 0 && layer.relief == Relief::All;
        let panicking = self
            .sorted
            .iter()
            .map(|layer| self.get(*layer))
            .filter(panics);
        let mut priorities: Vec<Option<u32>> = match config.overprovisioning_factor {
            Some(_) => panicking.map(|layer| Some(layer.priority)).collect(),
            None => panicking.map(|_| None).collect(),
        };
        priorities.dedup();
        priorities.retain(|priority| self.health(*priority).1 > 0);
        priorities
    }

    /// How many are healthy of how many, in a priority or altogether.
    pub(super) fn health(&self, priority: Option<u32>) -> (u32, u32) {
        let Some(priority) = priority else {
            return (self.census.healthy(), self.census.counted());
        };
        let layers = self
            .layers
            .iter()
            .filter(|layer| layer.priority == priority);
        layers.fold((0, 0), |(healthy, counted), layer| {
            let level = layer.level();
            (healthy + level.healthy, counted + level.counted)
        })
    }

    /// Which layer a pick tries first, and which then. `pickable` says of each how many of it can be
    /// picked.
    pub(super) fn order(&mut self, config: &Config, pickable: &[usize]) -> Order {
        if let [only] = &mut self.layers[..] {
            only.share = if pickable[0] > 0 { 1.0 } else { 0.0 };
            return Order::new(First::Always(0), Box::new([]));
        }
        let can_serve = |layer: &u32| pickable[*layer as usize] > 0;
        let mut levels = self.levels();
        levels.retain(|level| level.iter().any(can_serve));
        let loads = self.loads(config, &levels);
        let shares = levels.iter().zip(loads).filter(|(_, load)| *load > 0.0);
        let shares = shares.flat_map(|(level, load)| {
            let parts = self.parts(config, level, pickable);
            let sum: f64 = parts.iter().sum();
            let shares = parts.into_iter().map(move |part| load * part / sum);
            level.iter().copied().zip(shares)
        });
        let shares: Vec<(u32, f64)> = shares.filter(|(_, share)| *share > 0.0).collect();
        for layer in &mut self.layers {
            layer.share = 0.0;
        }
        for (layer, share) in &shares {
            self.layers[*layer as usize].share = *share;
        }
        let mut rest: Vec<u32> = levels.into_iter().flatten().filter(can_serve).collect();
        // Who has no healthy backend stands back, and who has no weight.
        rest.sort_by_key(|layer| {
            let Layer {
                priority, census, ..
            } = self.get(*layer);
            (
                !census.has_healthy(),
                *priority,
                self.weight(config, *layer) == 0.0,
            )
        });
        let first = match shares.len() {
            0 | 1 => First::Always(shares.first().map_or(0, |share| share.0)),
            _ if config.policy.hashes() => First::ByKey(Shares::new(&shares)),
            _ => {
                let turns = self.turns.get_or_insert_with(Arc::default);
                First::ByTurns(Turns::new(turns, &shares))
            }
        };
        Order::new(first, rest.into())
    }

    /// The layers of each priority.
    fn levels(&self) -> Vec<Vec<u32>> {
        let same = |one: &u32, other: &u32| self.get(*one).priority == self.get(*other).priority;
        let levels = self.sorted.chunk_by(same);
        levels.map(<[u32]>::to_vec).collect()
    }

    /// All layers of a priority together.
    fn level(&self, level: &[u32]) -> Level {
        let levels = level.iter().map(|layer| self.get(*layer).level());
        levels.fold(Level::default(), |sum, layer| Level {
            listed: sum.listed + layer.listed,
            counted: sum.counted + layer.counted,
            healthy: sum.healthy + layer.healthy,
        })
    }

    /// The part of the picks that each priority has; together they have the whole.
    fn loads(&self, config: &Config, levels: &[Vec<u32>]) -> Vec<f64> {
        let measured: Vec<Level> = levels.iter().map(|level| self.level(level)).collect();
        if let Some(factor) = config.overprovisioning_factor {
            let loads = priority::loads(&measured, factor.get(), config.panic_threshold);
            return loads
                .iter()
                .map(|load| f64::from(load.percent) / 100.0)
                .collect();
        }
        // gRPC's: the first that has one to pick.
        let first = measured.iter().position(|level| level.healthy > 0);
        let first = first.unwrap_or(0);
        let serves = |level| if level == first { 1.0 } else { 0.0 };
        (0..levels.len()).map(serves).collect()
    }

    /// How the layers of one priority share its picks.
    fn parts(&self, config: &Config, level: &[u32], pickable: &[usize]) -> Vec<f64> {
        let can_serve = |layer: &u32| pickable[*layer as usize] > 0;
        let healthy = |layer: &u32| can_serve(layer) && self.get(*layer).census.has_healthy();
        let panics = level.iter().any(|it| self.get(*it).relief == Relief::All);
        // Envoy: in a panic, each backend is as good as any other, wherever it is.
        if panics || !level.iter().any(healthy) {
            return level
                .iter()
                .map(|it| pickable[*it as usize] as f64)
                .collect();
        }
        let factor = config.overprovisioning_factor.map(|factor| factor.get());
        let part = |layer: &u32, weight: f64| match healthy(layer) {
            true => weight * availability(&self.get(*layer).level(), factor),
            false => 0.0,
        };
        let parts: Vec<f64> = level
            .iter()
            .map(|layer| part(layer, self.weight(config, *layer)))
            .collect();
        match parts.iter().any(|part| *part > 0.0) {
            true => parts,
            // There are only such without a weight: they weigh alike.
            false => level.iter().map(|layer| part(layer, 1.0)).collect(),
        }
    }

    /// The weight of a layer's locality.
    fn weight(&self, config: &Config, layer: u32) -> f64 {
        let locality = self.get(layer).locality.as_deref().unwrap_or_default();
        let weight = config.locality_weights.get(locality);
        weight.copied().unwrap_or(1.0)
    }
}
