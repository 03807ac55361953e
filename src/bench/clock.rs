//! Time that threads worked, and memory that the process has, as the system counts them.

#[cfg(feature = "train")]
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::fs;

/// What a pass took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Took {
    /// Seconds that this thread ran on a processor; where the system does not tell,
    /// those that passed.
    pub cpu_seconds: f64,
    /// Seconds that passed.
    pub wall_seconds: f64,
}

impl std::ops::AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.cpu_seconds += other.cpu_seconds;
        self.wall_seconds += other.wall_seconds;
    }
}

/// Does `work` on this thread and measures it.
pub fn measure<R>(work: impl FnOnce() -> R) -> (R, Took) {
    measure_by(on_cpu, work)
}

/// Does `work` and measures it with all threads of the process.
#[cfg(feature = "train")]
pub fn measure_all<R>(work: impl FnOnce() -> R) -> (R, Took) {
    measure_by(all_on_cpu, work)
}

fn measure_by<R>(clock: fn() -> Option<Duration>, work: impl FnOnce() -> R) -> (R, Took) {
    let (cpu, wall) = (clock(), Instant::now());
    let result = work();
    let (passed, after) = (wall.elapsed(), clock());
    let ran = cpu.zip(after).map(|(cpu, after)| after.saturating_sub(cpu));
    let took = Took {
        cpu_seconds: ran.unwrap_or(passed).as_secs_f64(),
        wall_seconds: passed.as_secs_f64(),
    };
    (result, took)
}

/// Whether the system tells what all threads of the process ran.
#[cfg(feature = "train")]
pub fn counts_all() -> bool {
    all_on_cpu().is_some()
}

/// The most memory that the process has had, in bytes.
#[cfg(feature = "train")]
pub fn memory_peak() -> Option<u64> {
    fs::process_memory("VmHWM:")
}

/// The memory that the process has now, in bytes.
#[cfg(feature = "train")]
pub fn memory_now() -> Option<u64> {
    fs::process_memory("VmRSS:")
}

/// Time that this thread has run.
fn on_cpu() -> Option<Duration> {
    fs::thread_time()
}

/// Time that the threads of this process have run, but for those that are gone.
#[cfg(feature = "train")]
fn all_on_cpu() -> Option<Duration> {
    std::thread::yield_now();
    let threads = fs::list(Path::new("/proc/self/task")).ok()?;
    let times = threads
        .iter()
        .filter_map(|thread| ran(&thread.join("schedstat")));
    Some(times.sum())
}

#[cfg(feature = "train")]
fn ran(schedstat: &Path) -> Option<Duration> {
    let text = fs::read_text(schedstat).ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Bytes of memory that are this process's alone, not those of files; where the system tells.
pub fn private_bytes() -> Option<u64> {
    fs::process_memory("RssAnon:")
}
