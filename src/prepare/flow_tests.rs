//! A flow beside a plain loop.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

/// Collects what it is given, and fails at one of them.
struct Collect {
    made: Vec<u32>,
    fails_at: Option<u32>,
}

impl Sink<u32, String> for Collect {
    type Made = Vec<u32>;

    fn add(&mut self, item: u32) -> Result<(), String> {
        if self.fails_at == Some(item) {
            return Err(format!("sink {item}"));
        }
        self.made.push(item);
        Ok(())
    }

    fn finish(self) -> Result<Vec<u32>, String> {
        Ok(self.made)
    }
}

/// What fails, and where.
#[derive(Clone, Copy, Debug)]
struct Faults {
    source: Option<u32>,
    work: Option<u32>,
    panic: Option<u32>,
    sink: Option<u32>,
}

fn work(item: u32, faults: Faults) -> Result<u32, String> {
    if faults.panic == Some(item) {
        // As `panic!`, without the message on the terminal.
        resume_unwind(Box::new(format!("panic {item}")));
    }
    match faults.work == Some(item) {
        true => Err(format!("work {item}")),
        false => Ok(item),
    }
}

fn source(items: u32, faults: Faults) -> impl Iterator<Item = Result<u32, String>> + Send {
    (0..items).map(move |item| match faults.source == Some(item) {
        true => Err(format!("source {item}")),
        false => Ok(item),
    })
}

/// The naive twin: one thread, one item after the other.
fn naive(items: u32, faults: Faults) -> Result<Vec<u32>, String> {
    let mut sink = Collect {
        made: Vec::new(),
        fails_at: faults.sink,
    };
    for item in source(items, faults) {
        let item = item?;
        if faults.panic == Some(item) {
            return Err(format!("panic {item}"));
        }
        sink.add(work(item, faults)?)?;
    }
    sink.finish()
}

fn flowing(items: u32, faults: Faults, threads: usize, room: usize) -> Result<Vec<u32>, String> {
    let sink = Collect {
        made: Vec::new(),
        fails_at: faults.sink,
    };
    let (flow, budget, stop) = (
        Flow::new(source(items, faults), sink),
        Budget::new(room),
        Stop::default(),
    );
    let outcome = Mutex::new(None);
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let step = flow.step(
                        |item| {
                            most.fetch_max(*lock(&budget.taken), Ordering::SeqCst);
                            // Others get a chance to take more than they may.
                            (0..item % 4 * 8).for_each(|_| std::thread::yield_now());
                            most.fetch_max(*lock(&budget.taken), Ordering::SeqCst);
                            work(item, faults)
                        },
                        (&budget, |_| 1),
                        (&stop, || "stopped".into()),
                    );
                    if let Some(made) = flow.take_outcome() {
                        *lock(&outcome) = Some(made);
                    }
                    if step == Step::Ended {
                        return;
                    }
                }
            });
        }
    });
    assert!(most.into_inner() <= room.max(1), "the budget is overdrawn");
    assert_eq!(*lock(&budget.taken), 0, "bytes are not given back");
    said(lock(&outcome).take().unwrap())
}

type Collecting<I> = Flow<I, Collect, u32, String, Vec<u32>>;

/// One step in whose midst `depth` others are made: what several threads do when the first
/// is the slowest, whatever the machine.
fn dive<I>(flow: &Collecting<I>, budget: &Budget, faults: Faults, depth: u32) -> Step
where
    I: Iterator<Item = Result<u32, String>>,
{
    flow.step(
        |item| {
            if 0 < depth {
                dive(flow, budget, faults, depth - 1);
            }
            work(item, faults)
        },
        (budget, |_| 1),
        (&Stop::default(), || "stopped".into()),
    )
}

/// A flow whose items are worked on in groups, the last of each first.
fn diving(items: u32, faults: Faults, depth: u32) -> Result<Vec<u32>, String> {
    let sink = Collect {
        made: Vec::new(),
        fails_at: faults.sink,
    };
    let (flow, budget) = (Flow::new(source(items, faults), sink), Budget::new(99));
    while dive(&flow, &budget, faults, depth) == Step::Worked {}
    assert_eq!(*lock(&budget.taken), 0, "bytes are not given back");
    said(flow.take_outcome().unwrap())
}

fn said<T>(outcome: Result<T, Failure<String>>) -> Result<T, String> {
    outcome.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::Panic(panic) => *panic.downcast::<String>().unwrap(),
    })
}

/// An item that is still worked on when an earlier one fails is forgotten, its bytes given
/// back.
#[test]
fn what_comes_after_a_failure_is_forgotten() {
    use std::sync::mpsc::channel;

    let sink = Collect {
        made: Vec::new(),
        fails_at: Some(0),
    };
    let none = Faults {
        source: None,
        work: None,
        panic: None,
        sink: None,
    };
    let (flow, budget, stop) = (
        Flow::new(source(9, none), sink),
        Budget::new(9),
        Stop::default(),
    );
    let step = |work: &dyn Fn(u32)| {
        let work = |item| {
            work(item);
            Ok(item)
        };
        flow.step(work, (&budget, |_| 1), (&stop, || "stopped".into()))
    };
    let ((taken, is_taken), (failed, has_failed)) = (channel(), channel());
    let (first, first_taken) = channel();
    std::thread::scope(|scope| {
        let step = &step;
        scope.spawn(move || {
            first_taken.recv().unwrap();
            step(&|item| {
                assert_eq!(item, 1);
                taken.send(()).unwrap();
                has_failed.recv().unwrap();
            })
        });
        step(&|item| {
            assert_eq!(item, 0);
            first.send(()).unwrap();
            is_taken.recv().unwrap();
        });
        failed.send(()).unwrap();
    });
    assert_eq!(said(flow.take_outcome().unwrap()), Err("sink 0".into()));
    assert_eq!(*lock(&budget.taken), 0, "bytes are not given back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_flow_keeps_the_order_whoever_is_slow(
        items in 0u32..40,
        faults in prop::array::uniform4(prop::option::weighted(0.3, 0u32..40)),
        depth in 0u32..6,
    ) {
        let [source, work, panic, sink] = faults;
        let faults = Faults { source, work, panic, sink };
        prop_assert_eq!(diving(items, faults, depth), naive(items, faults));
    }

    #[test]
    fn a_flow_comes_to_what_a_loop_comes_to(
        items in 0u32..60,
        faults in prop::array::uniform4(prop::option::weighted(0.3, 0u32..60)),
        threads in 1usize..6,
        room in 1usize..8,
    ) {
        let [source, work, panic, sink] = faults;
        let faults = Faults { source, work, panic, sink };
        prop_assert_eq!(flowing(items, faults, threads, room), naive(items, faults));
    }
}

#[test]
fn a_flow_that_is_asked_to_stop_says_so() {
    let sink = Collect {
        made: Vec::new(),
        fails_at: None,
    };
    let none = Faults {
        source: None,
        work: None,
        panic: None,
        sink: None,
    };
    let (flow, budget, stop) = (
        Flow::new(source(9, none), sink),
        Budget::new(9),
        Stop::default(),
    );
    let step = |stop: &Stop| flow.step(Ok, (&budget, |_| 1), (stop, || "stopped".to_string()));
    assert_eq!(step(&stop), Step::Worked);
    stop.request();
    assert_eq!(step(&stop), Step::Worked);
    assert_eq!(step(&stop), Step::Ended);
    let outcome = flow.take_outcome().unwrap();
    assert_eq!(outcome.map_err(Failure::into_error), Err("stopped".into()));
}
