//! Keyed, counter-based randomness: a number is a function of its key.
//!
//! No state is carried from one draw to the next item, so threads, partitions
//! and restarts cannot change what is drawn. Parts of a key are mixed by a
//! hash, never added: seed 1 of epoch 2 and seed 2 of epoch 1 share nothing.

/// What a random number is for; two streams of one seed are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Positions of pauses.
    Pause = 1,
    /// Order of rows in an epoch.
    Order = 2,
    /// Initial weights.
    Weights = 3,
    /// Tokens drawn in generation.
    Sampling = 4,
    /// Generated corpora.
    Synthetic = 5,
    /// Places of several datasets' rows in a global batch.
    Mixture = 6,
    /// Order of batches whose rows were sorted by length.
    Bucket = 7,
}

/// Names one independent source of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of a whole experiment.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x7061_7573_6564_6174))
    }

    /// The key of one purpose.
    pub fn stream(self, stream: Stream) -> Self {
        self.with(stream as u64)
    }

    /// The key of one pass over the data.
    pub fn epoch(self, epoch: u64) -> Self {
        self.with(epoch)
    }

    /// The key of one item: a row, a document, a tensor.
    pub fn item(self, item: u64) -> Self {
        self.with(item)
    }

    /// A generator that starts at this key.
    pub fn rng(self) -> Rng {
        Rng {
            key: self.0,
            counter: 0,
        }
    }

    fn with(self, part: u64) -> Self {
        Self(mix(
            self.0.rotate_left(17) ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15))
        ))
    }
}

/// The hashes of the first counters, which every key draws with.
#[expect(
    clippy::indexing_slicing,
    reason = "made by the compiler, within bounds"
)]
static COUNTERS: [u64; 512] = {
    let mut hashes = [0; 512];
    let mut counter = 0;
    while counter < hashes.len() {
        hashes[counter] = mix(counter as u64);
        counter += 1;
    }
    hashes
};

/// Draws numbers: the n-th is a hash of (key, n).
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// 64 uniform bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        let place = usize::try_from(self.counter).unwrap_or(usize::MAX);
        let counter = COUNTERS.get(place).copied();
        mix(self.key ^ counter.unwrap_or_else(|| mix(self.counter)))
    }

    /// A number in `0..bound`, exactly uniform (Lemire, "Fast random integer
    /// generation in an interval", 2019); 0 where `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        loop {
            let wide = u128::from(self.bits()) * u128::from(bound);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the low half is what is compared"
            )]
            let low = wide as u64;
            // The threshold is below the bound, so that the division is hardly ever needed.
            if bound <= low || bound.wrapping_neg() % bound <= low {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A standard normal number (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): a bijection of u64.
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_add_up() {
        let key = |seed, epoch, item| {
            Key::new(seed)
                .stream(Stream::Pause)
                .epoch(epoch)
                .item(item)
                .rng()
                .bits()
        };
        let mut seen = std::collections::HashSet::new();
        for (seed, epoch, item) in
            (0..8).flat_map(|a| (0..8).flat_map(move |b| (0..8).map(move |c| (a, b, c))))
        {
            assert!(
                seen.insert(key(seed, epoch, item)),
                "{seed} {epoch} {item} repeats another key"
            );
        }
    }

    #[test]
    fn hashes_of_counters_are_known_or_made() {
        let mut rng = Key::new(5).rng();
        for n in 1..2000 {
            assert_eq!(rng.bits(), mix(rng.key ^ mix(n)));
        }
    }

    #[test]
    fn below_is_uniform() {
        let mut counts = [0u32; 7];
        let mut rng = Key::new(3).rng();
        for _ in 0..70_000 {
            counts[usize::try_from(rng.below(7)).unwrap()] += 1;
        }
        // Six degrees of freedom: chi-square above 27.9 has probability 1e-4.
        let chi: f64 = counts
            .iter()
            .map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4)
            .sum();
        assert!(chi < 27.9, "chi-square {chi}");
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut rng = Key::new(4).rng();
        let draws: Vec<f64> = (0..50_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 5e4;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 5e4;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03,
            "{mean} {variance}"
        );
    }
}
