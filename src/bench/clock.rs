//! Time that a thread worked and memory that the process has, as the system counts them.

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
    let (cpu, wall) = (on_cpu(), Instant::now());
    let result = work();
    let (passed, after) = (wall.elapsed(), on_cpu());
    let ran = cpu
        .zip(after)
        .map_or(passed, |(cpu, after)| after.saturating_sub(cpu));
    let took = Took {
        cpu_seconds: ran.as_secs_f64(),
        wall_seconds: passed.as_secs_f64(),
    };
    (result, took)
}

/// Time that this thread has run, as Linux tells it in nanoseconds.
fn on_cpu() -> Option<Duration> {
    // The system counts at its ticks, some milliseconds apart, and when a thread yields.
    std::thread::yield_now();
    let text = fs::read_text(Path::new("/proc/thread-self/schedstat")).ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Bytes of memory that are this process's alone, not those of files; where the system tells.
pub fn private_bytes() -> Option<u64> {
    let text = fs::read_text(Path::new("/proc/self/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(1024 * kibibytes)
}
