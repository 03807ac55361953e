//! What a process does beside its results: panics, time, memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longer than any single input may take.
const HANG: Duration = Duration::from_secs(10);
/// No single allocation may be so large.
const ALLOCATION_MAX: usize = 1 << 30;

/// Counts what is allocated, and ends the process at an absurd allocation: the
/// library would otherwise end it without a word about the input.
pub struct Counting;

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static PANICS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CURRENT.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CURRENT.fetch_sub(layout.size(), Ordering::Relaxed);
        grow(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn grow(bytes: usize) {
    let now = CURRENT.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
    if ALLOCATION_MAX < bytes {
        give_up(&format!("asks for {bytes} bytes at once"));
    }
}

/// What is tried now, and since when.
static TRIED: Mutex<Option<(String, Instant)>> = Mutex::new(None);
static TRIALS: AtomicU64 = AtomicU64::new(0);

/// Ends the process, naming what is tried.
fn give_up(reason: &str) -> ! {
    let tried = TRIED.try_lock().ok().and_then(|tried| tried.clone());
    let name = tried.map_or_else(String::new, |(name, _)| name);
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "FAILED {name}: {reason}\n0 passed, 1 failed"));
    drop(out.flush());
    std::process::exit(1)
}

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Ends the process when one trial takes too long, and keeps panics off the terminal.
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let message = panic.to_string();
        LAST.with(|last| *last.borrow_mut() = Some(message));
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::park_timeout(Duration::from_millis(500));
            let since = TRIED.lock().unwrap().as_ref().map(|(_, since)| *since);
            if since.is_some_and(|since| HANG < since.elapsed()) {
                give_up("hangs");
            }
        }
    });
}

/// Brings panics back to the terminal.
pub fn stop() {
    *TRIED.lock().unwrap() = None;
    drop(std::panic::take_hook());
}

/// Runs a trial; an escaped panic or too much memory is a failure.
pub fn trial(
    name: &str,
    memory: usize,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    *TRIED.lock().unwrap() = Some((name.into(), Instant::now()));
    TRIALS.fetch_add(1, Ordering::Relaxed);
    let before = CURRENT.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    *TRIED.lock().unwrap() = None;
    match result {
        Err(_) => {
            let said = LAST.with(|last| last.borrow_mut().take());
            Err(format!("panics: {}", said.unwrap_or_default()))
        }
        Ok(_) if memory < peak => Err(format!("takes {} MB", peak >> 20)),
        Ok(result) => result,
    }
}

/// Panics so far; those that were no failure became errors.
pub fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}
