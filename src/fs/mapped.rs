//! Files as memory, whose loss is an error.
//!
//! Where a page of a mapped file cannot be had any more, because another program made the
//! file shorter or because the disk failed, the system ends the process with SIGBUS. Not
//! so here: a page of zeros takes the place of the lost one, and the map says afterwards
//! that it is not whole. Faults elsewhere end the process as they would without us.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use memmap2::{Advice, Mmap};

/// A mapped file; threads may share it.
#[derive(Debug)]
pub struct Mapped {
    /// Before the map, so that it ends first: what is watched must be mapped.
    watch: watch::Watch,
    map: Mmap,
    /// The last byte that is not 0, or the first of the last page that has none; whether
    /// it is not 0.
    last: Option<(usize, bool)>,
}

impl Mapped {
    /// Maps a whole file for reading.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: published files are never written to again: this program replaces them
        // by rename, which leaves mapped ones as they were. Bytes that another program
        // changes are numbers to us, whatever they are; those that it takes away are
        // watched over (`a_file_that_shrinks_is_an_error` defends it).
        let map = unsafe { Mmap::map(file) }?;
        let watch = watch::Watch::start(&map)?;
        let page = map.len().saturating_sub(1) / watch::page_bytes() * watch::page_bytes();
        let in_page = map.iter().enumerate().skip(page);
        let last = in_page.clone().rfind(|(_, byte)| **byte != 0);
        let last = last.or(in_page.clone().next());
        Ok(Self {
            last: last.map(|(at, byte)| (at, *byte != 0)),
            watch,
            map,
        })
    }

    /// The bytes. What was made of them holds if the map [is whole](Self::is_whole) after.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether every byte that was read until now was the file's.
    ///
    /// A file that is cut loses its last page, which is tried here: whatever was read after
    /// the cut, this is after it. Only where the cut is in the last page itself does that
    /// stay, with zeros behind the cut; then its last byte that was not 0 is one of them.
    pub fn is_whole(&self) -> bool {
        // The bytes were read before; neither the compiler nor the processor may read
        // them later.
        fence(Ordering::Acquire);
        let cut = self.last.is_some_and(|(at, set)| {
            // SAFETY: `at` is a byte of the map.
            let byte = unsafe { self.map.as_ptr().add(at).read_volatile() };
            set && byte == 0
        });
        fence(Ordering::Acquire);
        !cut && !self.watch.lost()
    }

    /// Says that some bytes will be read soon, so that the system may get them from their
    /// disk.
    pub fn will_need(&self, bytes: &Range<usize>) {
        // A hint: without it reading is as right, and slower.
        drop((self.map).advise_range(Advice::WillNeed, bytes.start, bytes.len()));
    }

    /// Some bytes, for the processor to get them from memory.
    pub fn lines(&self, bytes: &Range<usize>) -> Lines<'_> {
        Lines(self.map.get(bytes.clone()).unwrap_or_default())
    }
}

/// Bytes of a map that are read soon. A processor that is told of too many at once waits for
/// them, so that it is told of a part, does something else, and is told of the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines<'a>(&'a [u8]);

impl Lines<'_> {
    /// The first half and the others.
    pub fn halves(self) -> [Self; 2] {
        let (first, others) = self.0.split_at(self.0.len() / 2);
        [Self(first), Self(others)]
    }

    /// Says that they are read next.
    pub fn fetch(self) {
        #[cfg(target_arch = "x86_64")]
        for line in self.0.chunks(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint about a byte of the map, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
}

mod watch {
    //! The signal handler, and the list of maps that it looks at.

    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

    use libc::{c_int, c_void, siginfo_t};

    /// Pages of a map are counted in so many bits, their addresses in the others.
    const COUNT_BITS: u32 = 28;

    /// A mapped range, or a place for one. Slots are never freed, as the handler may look
    /// at them at any time, but used again.
    #[derive(Debug)]
    struct Slot {
        /// The first page and the number of pages in one number, so that they cannot be
        /// seen apart; 0 where the slot is free.
        pages: AtomicU64,
        lost: AtomicBool,
        /// Set before the slot is shared, and never changed.
        next: AtomicPtr<Slot>,
    }

    static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
    /// What happened at SIGBUS before us.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// A map that is watched over.
    #[derive(Debug)]
    pub struct Watch(&'static Slot);

    impl Watch {
        /// Watches over mapped bytes, until it is dropped.
        pub fn start(map: &[u8]) -> io::Result<Self> {
            static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
            (INSTALLED.get_or_init(install)).map_err(io::Error::from_raw_os_error)?;
            let too_large = || {
                let large = format!("{} bytes are more than can be mapped", map.len());
                io::Error::new(io::ErrorKind::FileTooLarge, large)
            };
            let pages = pages(map).ok_or_else(too_large)?;
            for slot in slots() {
                let free =
                    (slot.pages).compare_exchange(0, pages, Ordering::AcqRel, Ordering::Relaxed);
                if free.is_ok() {
                    return Ok(Self(slot));
                }
            }
            Ok(Self(push(pages)))
        }

        /// Whether a page could not be had.
        pub fn lost(&self) -> bool {
            self.0.lost.load(Ordering::Relaxed)
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            // Nobody reads the map any more; whoever takes the slot finds it as new.
            self.0.lost.store(false, Ordering::Relaxed);
            self.0.pages.store(0, Ordering::Release);
        }
    }

    /// Bytes of a page, once a map is watched over.
    pub fn page_bytes() -> usize {
        PAGE_BYTES.load(Ordering::Relaxed).max(1)
    }

    /// The pages of a map; `None` where their numbers are too large.
    fn pages(map: &[u8]) -> Option<u64> {
        let page_bytes = page_bytes();
        let first = (map.as_ptr().addr() / page_bytes) as u64;
        let count = map.len().div_ceil(page_bytes).max(1) as u64;
        let fits = first.leading_zeros() >= COUNT_BITS && count < 1 << COUNT_BITS;
        fits.then_some(first << COUNT_BITS | count)
    }

    fn push(pages: u64) -> &'static Slot {
        let slot: &'static Slot = Box::leak(Box::new(Slot {
            pages: AtomicU64::new(pages),
            lost: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
        }));
        let mut first = SLOTS.load(Ordering::Acquire);
        loop {
            slot.next.store(first, Ordering::Relaxed);
            let place = ptr::from_ref(slot).cast_mut();
            match SLOTS.compare_exchange(first, place, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return slot,
                Err(other) => first = other,
            }
        }
    }

    fn slots() -> impl Iterator<Item = &'static Slot> {
        // SAFETY: slots are leaked, complete before they are in the list, and only read.
        let shared = |slot: *mut Slot| unsafe { slot.as_ref() };
        let first = shared(SLOTS.load(Ordering::Acquire));
        std::iter::successors(first, move |slot| shared(slot.next.load(Ordering::Relaxed)))
    }

    /// Makes SIGBUS ours, once; a failure is the system's number of it.
    fn install() -> Result<(), i32> {
        let failed = || io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: it asks for a number.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = usize::try_from(page_bytes).map_err(|_| failed())?;
        PAGE_BYTES.store(page_bytes, Ordering::Relaxed);
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_sigbus;
        let mut before = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: a zeroed `sigaction` has no flags and an empty mask; the handler has the
        // signature that SA_SIGINFO asks for, and does nothing that a handler may not do.
        // `before` is read where the call wrote it.
        unsafe {
            if libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) != 0 {
                return Err(failed());
            }
            // The first fault may ask for it.
            BEFORE.get_or_init(|| before.assume_init());
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            match libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(failed()),
            }
        }
    }

    /// Puts zeros in the place of a lost page of a watched map; any other fault goes the
    /// way that it went before.
    extern "C" fn on_sigbus(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the system hands over a valid `info`, with an address where the
        // processor met a fault.
        let (address, sent) = unsafe { ((*info).si_addr().addr(), (*info).si_code <= 0) };
        if !sent && replace(address).is_some() {
            return;
        }
        if let Some(before) = BEFORE.get() {
            // SAFETY: the action is the one that the system gave us. The instruction that
            // failed runs again and finds it; a signal that somebody sent is sent again.
            unsafe {
                libc::sigaction(libc::SIGBUS, before, ptr::null_mut());
                if sent {
                    libc::raise(libc::SIGBUS);
                }
            }
        }
    }

    /// Replaces the page of an address that lies in a watched map.
    fn replace(address: usize) -> Option<()> {
        let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
        let page = address.checked_div(page_bytes)?;
        let slot = slots().find(|slot| {
            let pages = slot.pages.load(Ordering::Acquire);
            let (first, count) = (pages >> COUNT_BITS, pages & ((1 << COUNT_BITS) - 1));
            (first..first + count).contains(&(page as u64))
        })?;
        // Before the zeros are there: who sees them must see this.
        slot.lost.store(true, Ordering::SeqCst);
        // SAFETY: the page belongs to a map that is alive, as the thread that faults is
        // reading it; readers of the map promise nothing about its bytes, so zeros serve.
        // The page goes when the map is unmapped as a whole.
        let placed = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut(page * page_bytes),
                page_bytes,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        (placed != libc::MAP_FAILED).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    fn file(bytes: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes as u64).unwrap();
        file
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let file = file(100_000);
        let (map, other) = (Mapped::new(&file).unwrap(), Mapped::new(&file).unwrap());
        assert_eq!(map.bytes().iter().max(), Some(&0));
        assert!(map.is_whole());
        // What is left stays readable, and what is lost reads as zeros; neither holds.
        file.set_len(50_000).unwrap();
        assert_eq!(map.bytes()[..50_000].iter().max(), Some(&0));
        assert!(!map.is_whole());
        assert_eq!(map.bytes().iter().max(), Some(&0));
        assert!(!map.is_whole());
        let threads = [(); 4].map(|()| other.bytes());
        std::thread::scope(|scope| {
            for bytes in threads {
                scope.spawn(move || assert_eq!(bytes.iter().max(), Some(&0)));
            }
        });
        assert!(!other.is_whole());
        // A new map takes over the place of an old one as if it were new.
        drop((map, other));
        let map = Mapped::new(&file).unwrap();
        assert!(map.bytes().iter().all(|byte| *byte == 0) && map.is_whole());
    }

    /// A cut inside the last page takes no page away.
    #[test]
    fn a_file_that_loses_its_last_bytes_is_an_error() {
        let file = file(100_000);
        file.write_all_at(&[7], 99_000).unwrap();
        let map = Mapped::new(&file).unwrap();
        file.set_len(99_001).unwrap();
        assert!(map.is_whole(), "only zeros are gone");
        file.set_len(99_000).unwrap();
        assert!(!map.is_whole());
    }

    #[test]
    fn a_file_of_nothing_is_mapped() {
        let map = Mapped::new(&file(0)).unwrap();
        assert!(map.bytes().is_empty() && map.is_whole());
    }

    /// The test is run again by a process of its own, which faults outside of any map of
    /// ours, and is sent the signal.
    #[test]
    #[cfg(target_os = "linux")]
    fn other_faults_end_the_process_as_before() {
        use std::os::unix::process::ExitStatusExt;

        const NAME: &str = "PAUSEDATA_TEST_FAULT";
        if let Some(how) = std::env::var_os(NAME) {
            let file = file(100_000);
            let watched = Mapped::new(&file).unwrap();
            // SAFETY: the fault is wanted.
            let map = unsafe { Mmap::map(&file) }.unwrap();
            file.set_len(0).unwrap();
            match how == "read" {
                true => assert_eq!(map.iter().max(), Some(&0)),
                // The handler of Rust, which was there before us, lets the first one pass.
                false => {
                    for _ in 0..2 {
                        // SAFETY: it is sent to this process.
                        let failed = unsafe { libc::raise(libc::SIGBUS) };
                        assert_eq!(failed, 0);
                    }
                }
            }
            assert!(watched.is_whole());
            return;
        }
        for how in ["read", "sent"] {
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.args([
                "--exact",
                "fs::mapped::tests::other_faults_end_the_process_as_before",
            ]);
            let status = again.env(NAME, how).output().unwrap().status;
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{how}: {status}");
        }
    }
}
