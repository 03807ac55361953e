//! What threads keep from one text to the next: each finds its own again.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places; threads beyond them share.
const PLACES: usize = 64;

/// One value a thread, made when it is first needed and dropped with the pool.
pub struct Pool<T> {
    places: Vec<Mutex<Option<Box<T>>>>,
}

fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    NUMBER.with(Cell::get)
}

impl<T> Pool<T> {
    /// An empty pool.
    pub fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Calls `work` with this thread's value, or with one that no thread uses now.
    pub fn with<R>(&self, make: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let own = thread_number() % PLACES;
        let (before, after) = self.places.split_at(own.min(self.places.len()));
        for place in after.iter().chain(before) {
            // A value that a panic left behind is not used again.
            if let Ok(mut place) = place.try_lock() {
                return work(place.get_or_insert_with(|| Box::new(make())));
            }
        }
        work(&mut make())
    }
}
