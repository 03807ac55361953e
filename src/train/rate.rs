//! How fast a run is, as the person who waits for it wants to know.

use std::sync::OnceLock;
use std::time::Instant;

use crate::fs;
use crate::loader::GlobalBatch;
use crate::model::Model;
use crate::model::flops::{Flops, PerToken};
use crate::model::ops::Kernels;
use crate::model::ops::cpu::matrix::{Mat, MatMut};
use crate::model::ops::cpu::product::{Onto, Packed, matmul_packed};
use crate::model::precision::Precision;
use crate::train::record::Utilization;

/// How much of a mean stays at a step.
const KEEP: f64 = 0.9;

/// The speed of a run.
pub struct Rate {
    /// Operations a second that the device can do, where that is known.
    peak: Option<f64>,
    tokens_per_s: Option<f64>,
}

impl Rate {
    /// Of a run on so many devices, whose peak the recipe gives in billions of operations a
    /// second each, or which computes on the CPU, where the peak is measured.
    pub fn new(given_gflops: Option<f64>, model: &Model, devices: usize) -> Self {
        let measured = || match model.kernels() {
            Kernels::Fused(precision) => Some(*peak(precision).get_or_init(|| measured(precision))),
            _ => None,
        };
        Self {
            peak: given_gflops
                .map(|peak| peak * 1e9 * devices as f64)
                .or_else(measured),
            tokens_per_s: None,
        }
    }

    /// The share of the peak that a step reached.
    pub fn utilization(
        &self,
        model: &Model,
        batch: &GlobalBatch,
        flops: Flops,
        seconds: f64,
    ) -> Option<Utilization> {
        let peak = self.peak? * seconds.max(1e-9);
        let palm = batch.micro_batches.iter().map(|micro| {
            let each = PerToken::of(&model.config, micro.length).palm;
            each * (micro.rows * micro.length) as u64
        });
        let rounded = |share: f64| (share * 1e4).round() / 1e4;
        Some(Utilization {
            mfu: rounded(palm.sum::<u64>() as f64 / peak),
            hfu: rounded(flops.hardware() as f64 / peak),
        })
    }

    /// What stands beside the bar after a step.
    pub fn remark(&mut self, loss: f64, tokens_per_s: f64, used: Option<Utilization>) -> String {
        let mean = self.tokens_per_s.unwrap_or(tokens_per_s);
        let mean = KEEP * mean + (1.0 - KEEP) * tokens_per_s;
        self.tokens_per_s = Some(mean);
        let mut text = format!("loss {loss:.4}, {mean:.0} tokens/s");
        if let (Some(used), Some(peak)) = (used, self.peak) {
            text += &format!(
                ", MFU {:.0} % (done {:.0} %) of {:.0} GFLOP/s",
                100.0 * used.mfu,
                100.0 * used.hfu,
                peak / 1e9
            );
        }
        if let Some(bytes) = fs::process_memory("VmRSS:") {
            text += &format!(", {} MB", bytes / 1_000_000);
        }
        text
    }
}

/// Rows and columns of the matrices: all three in the second-level cache.
const SIZE: usize = 320;
/// Products each time.
const PRODUCTS: usize = 8;
/// The best of so many times.
const TIMES: usize = 3;

/// Operations a second of this machine, measured once: nothing computed depends on it.
fn peak(precision: Precision) -> &'static OnceLock<f64> {
    static SINGLE: OnceLock<f64> = OnceLock::new();
    static BF16: OnceLock<f64> = OnceLock::new();
    match precision {
        Precision::Single => &SINGLE,
        Precision::Bf16 => &BF16,
    }
}

/// Operations a second of products that all threads do at once.
fn measured(precision: Precision) -> f64 {
    let operations = 2.0 * (SIZE as f64).powi(3) * (PRODUCTS * rayon::current_num_threads()) as f64;
    let time = || {
        let start = Instant::now();
        rayon::broadcast(|_| {
            let (a, b) = (vec![0.5; SIZE * SIZE], vec![0.25; SIZE * SIZE]);
            let mut to = vec![0.0; SIZE * SIZE];
            let [a, b] = [&a, &b].map(|values| Mat::new(values, SIZE, SIZE));
            let b = Packed::new(b, precision);
            for _ in 0..PRODUCTS {
                let mut to = MatMut::new(&mut to, SIZE, SIZE);
                matmul_packed(&mut to, Onto::Nothing, a, &b, 1.0);
            }
        });
        start.elapsed().as_secs_f64()
    };
    let best = (0..TIMES).map(|_| time()).fold(f64::INFINITY, f64::min);
    operations / best.max(1e-9)
}
