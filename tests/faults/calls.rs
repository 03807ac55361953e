//! Kills and errors at the system calls of a small `pausedata prepare`.
//!
//! `strace` stops the unmodified program at its Nth call of a name and kills it
//! there, or makes the call fail. Then prepare is run again, and the folder must
//! hold exactly the bytes of a run that nothing disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::trace::{self, Call};
use crate::{Extent, Options, Tally, program, samples};

/// Calls that change files, and those without which files cannot be read.
const WATCHED: &str = "write,pwrite64,writev,fsync,fdatasync,sync_file_range,rename,renameat,\
renameat2,openat,open,creat,ftruncate,fallocate,mkdir,mkdirat,unlink,unlinkat,rmdir,link,linkat,\
copy_file_range,read,pread64,getdents64,flock";

/// Calls that only look: killing there leaves what killing at the next change leaves.
const LOOKING: [&str; 3] = ["read", "pread64", "getdents64"];

/// Points of each extent: one fault at one call each.
const SAMPLE_POINTS: usize = 12;
const CI_POINTS: usize = 400;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The process is killed.
    Kill,
    /// The disk is full.
    Full,
    /// The disk is full from here on.
    FullFromNow,
    /// The device fails.
    Io,
}

/// One fault at one call.
#[derive(Clone, Debug)]
struct Point {
    fault: Fault,
    call: Call,
    threads: u32,
}

/// Files that no fault may change, and the folder in which each worker works.
struct Experiment {
    folder: tempfile::TempDir,
    expected: Tree,
}

/// Every file of a run's datasets, by path below `data/`.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

pub fn run(options: &Options) -> Tally {
    trace::self_check();
    let mut tally = Tally::default();
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped calls: there is no `strace` here");
        return tally;
    }
    for (tokenizer, label) in [
        ("train = { vocab_size = 300 }", "tokenizer trained"),
        ("file = \"tokenizer.json\"", "tokenizer read"),
    ] {
        let experiment = Experiment::new(tokenizer);
        let calls = experiment.baseline();
        let given = label == "tokenizer read";
        let points = points(&calls, options.extent, given);
        println!(
            "{label}: {} calls on {} files, {} points",
            calls.len(),
            (calls.iter().map(|call| &call.file).collect::<BTreeSet<_>>()).len(),
            points.len()
        );
        tally.add(experiment.try_all(&points, &calls));
    }
    tally
}

/// The points to try: every call with every fault that it can meet, or a spread of them.
///
/// With `sources_only` those alone that fail to read a source.
fn points(calls: &[Call], extent: Extent, sources_only: bool) -> Vec<Point> {
    let mut points = Vec::new();
    let mut seen = BTreeSet::new();
    for call in calls {
        let source = !call.file.starts_with("out") && call.file != "stdout";
        if sources_only && !source {
            continue;
        }
        for fault in faults(call) {
            // On other threads, calls are met by the file they touch.
            let place = (call.main && !sources_only).then_some(call.when);
            let file = place.is_none().then(|| call.file.clone());
            if seen.insert((call.name.clone(), place, file, fault)) {
                points.push(Point {
                    fault,
                    call: Call {
                        main: call.main && !sources_only,
                        ..call.clone()
                    },
                    threads: 1,
                });
            }
        }
    }
    let most = match extent {
        Extent::All => usize::MAX,
        Extent::Ci => CI_POINTS,
        Extent::Sample => SAMPLE_POINTS,
    };
    let mut chosen = spread(points, most);
    for point in chosen.iter_mut().skip(3).step_by(5) {
        point.threads = 2;
    }
    chosen
}

/// The faults that a call can meet.
fn faults(call: &Call) -> Vec<Fault> {
    let name = call.name.as_str();
    if LOOKING.contains(&name) {
        return vec![Fault::Io];
    }
    let mut faults = vec![Fault::Io];
    if call.main {
        faults.push(Fault::Kill);
    }
    if !matches!(name, "unlink" | "unlinkat" | "rmdir" | "flock") {
        faults.push(Fault::Full);
    }
    if name == "write" && call.file != "stdout" {
        faults.push(Fault::FullFromNow);
    }
    faults
}

/// At most `most` points: of each kind of call and fault some, evenly spaced.
fn spread(points: Vec<Point>, most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points;
    }
    let mut kinds: BTreeMap<(Fault, String), Vec<Point>> = BTreeMap::new();
    let share = most as f64 / points.len() as f64;
    for point in points {
        let kind = (point.fault, point.call.name.clone());
        kinds.entry(kind).or_default().push(point);
    }
    let mut chosen = Vec::new();
    for kind in kinds.into_values() {
        let n = ((kind.len() as f64 * share).round() as usize).max(1);
        let place = |i: usize| kind[i * kind.len() / n].clone();
        chosen.extend((0..n).map(place));
    }
    chosen
}

impl Fault {
    fn injection(self, call: &Call) -> String {
        let (name, when) = (&call.name, if call.main { call.when } else { 1 });
        match self {
            Self::Kill => format!("{name}:signal=KILL:when={when}"),
            Self::Full => format!("{name}:error=ENOSPC:when={when}"),
            Self::FullFromNow => format!("{name}:error=ENOSPC:when={when}+"),
            Self::Io => format!("{name}:error=EIO:when={when}"),
        }
    }
}

impl Experiment {
    fn new(tokenizer: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        samples::experiment(root);
        samples::experiment_recipe(root, "train = { vocab_size = 300 }");
        let mut experiment = Self {
            folder,
            expected: Tree::new(),
        };
        let root = experiment.folder.path();
        assert_done(&experiment.prepare("out-first", 1).output().unwrap());
        let trained = root.join("out-first/data/tokenizer.json");
        fs::copy(trained, root.join("tokenizer.json")).unwrap();
        samples::experiment_recipe(root, tokenizer);
        assert_done(&experiment.prepare("out-whole", 1).output().unwrap());
        experiment.expected = experiment.tree("out-whole");
        assert!(experiment.verified("out-whole").is_ok());
        experiment
    }

    fn root(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// The calls of an undisturbed run.
    fn baseline(&self) -> Vec<Call> {
        let log = self.folder.path().join("log-baseline");
        let output = self.traced("out-baseline", 1, &log, &[]).output().unwrap();
        assert_done(&output);
        assert_eq!(self.tree("out-baseline"), self.expected);
        let log = fs::read_to_string(log).unwrap();
        let calls = trace::calls(&log, &self.root());
        assert!(
            100 < calls.len(),
            "{} calls are no run:\n{log}",
            calls.len()
        );
        // Worker folders stand for that of the baseline.
        let rename = |call: Call| Call {
            file: call.file.replacen("out-baseline", "out", 1),
            ..call
        };
        calls.into_iter().map(rename).collect()
    }

    /// Tries the points on as many workers as there are cores.
    fn try_all(&self, points: &[Point], calls: &[Call]) -> Tally {
        let next = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::default());
        let met: Mutex<BTreeSet<(String, String)>> = Mutex::default();
        let missed = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(8);
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let (next, tally, met, missed) = (&next, &tally, &met, &missed);
                scope.spawn(move || {
                    while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.try_one(point, worker);
                        let name = format!("{point:?}");
                        match result {
                            Ok(Some(place)) => drop(met.lock().unwrap().insert(place)),
                            Ok(None) => {
                                missed.fetch_add(1, Ordering::Relaxed);
                                continue;
                            }
                            Err(reason) => {
                                tally.lock().unwrap().note(&name, Err(reason));
                                continue;
                            }
                        }
                        tally.lock().unwrap().note(&name, Ok(()));
                    }
                });
            }
        });
        let (met, missed) = (met.into_inner().unwrap(), missed.into_inner());
        let places: BTreeSet<(String, String)> = (calls.iter())
            .map(|call| (call.name.clone(), call.file.clone()))
            .collect();
        println!(
            "faults met at {} of {} places (a call on a file); {missed} points were not reached",
            met.intersection(&places).count(),
            places.len(),
        );
        tally.into_inner().unwrap()
    }

    /// One run with the fault, judged; another without, which must make everything good.
    /// Returns where the fault was met.
    fn try_one(&self, point: &Point, worker: usize) -> Result<Option<(String, String)>, String> {
        let out = format!("out-{worker}");
        let folder = self.folder.path().join(&out);
        let log = self.folder.path().join(format!("log-{worker}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let injection = format!("inject={}", point.fault.injection(&point.call));
        let file = self.folder.path().join(&point.call.file);
        let mut options = vec!["-e", injection.as_str()];
        let file = file.display().to_string();
        if !point.call.main {
            options.extend(["-P", file.as_str()]);
        }
        let mut traced = self.traced(&out, point.threads, &log, &options);
        let output = traced.output().map_err(|error| error.to_string())?;
        let log = fs::read_to_string(&log).unwrap();
        let killed = output.status.code().is_none();
        let calls = trace::calls(&log, &self.root());
        let injected = log.contains("(INJECTED)") || killed;
        if !killed {
            self.judge(&output, point.fault, &out)?;
        } else if point.fault != Fault::Kill {
            return Err(format!("ended by a signal: {:?}", output.status));
        }
        let again = self.prepare(&out, point.threads).output().unwrap();
        no_panic(&again)?;
        if again.status.code() != Some(0) {
            return Err(format!("running again fails: {}", said(&again)));
        }
        self.same(&out)?;
        self.verified(&out)?;
        if !injected {
            return Ok(None);
        }
        let place = if killed {
            calls.iter().rfind(|call| call.name == point.call.name)
        } else {
            calls.iter().find(|call| call.injected)
        };
        Ok(place.map(|call| {
            let file = call.file.replacen(&out, "out", 1);
            (call.name.clone(), file)
        }))
    }

    /// What a run that met an error may do: fail and say at which file, or be right.
    fn judge(&self, output: &Output, fault: Fault, out: &str) -> Result<(), String> {
        no_panic(output)?;
        let err = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => self.same(out),
            // Where every write fails, so does that of the message.
            Some(1 | 3) if fault == Fault::FullFromNow && err.is_empty() => Ok(()),
            // Before the program begins, its libraries are loaded.
            Some(127) if err.contains("error while loading shared libraries") => Ok(()),
            Some(1..=3) => {
                let named =
                    err.contains(&self.root()) || err.contains(".jsonl") || err.contains("stdout");
                let error = err.starts_with("error: ") && err.matches("error: ").count() == 1;
                match named && error {
                    true => Ok(()),
                    false => Err(format!("the error names no file: {}", said(output))),
                }
            }
            _ => Err(format!("unexpected exit: {}", said(output))),
        }
    }

    /// The datasets must be those of the undisturbed run, and nothing beside them.
    fn same(&self, out: &str) -> Result<(), String> {
        let found = self.tree(out);
        for (path, bytes) in &self.expected {
            match found.get(path) {
                None => return Err(format!("`{}` is missing", path.display())),
                Some(other) if other != bytes => {
                    return Err(format!("`{}` has other bytes", path.display()));
                }
                Some(_) => {}
            }
        }
        match found.keys().find(|path| !self.expected.contains_key(*path)) {
            Some(path) => Err(format!("`{}` is left over", path.display())),
            None => Ok(()),
        }
    }

    fn verified(&self, out: &str) -> Result<(), String> {
        for stage in ["pretrain", "finetune"] {
            let folder = self.folder.path().join(out).join("data").join(stage);
            let output = Command::new(program())
                .arg("verify")
                .arg(folder)
                .output()
                .unwrap();
            let passed = String::from_utf8_lossy(&output.stdout).contains("0 failed");
            if output.status.code() != Some(0) || !passed {
                return Err(format!("verify fails: {}", said(&output)));
            }
        }
        Ok(())
    }

    fn tree(&self, out: &str) -> Tree {
        let data = self.folder.path().join(out).join("data");
        let mut tree = Tree::new();
        let mut folders = vec![data.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for path in entries.map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&data).unwrap().to_path_buf();
                    tree.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        tree
    }

    fn prepare(&self, out: &str, threads: u32) -> Command {
        let mut command = Command::new(program());
        self.arguments(&mut command, out, threads);
        command
    }

    fn traced(&self, out: &str, threads: u32, log: &Path, options: &[&str]) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-e"]);
        command.arg(format!("trace={WATCHED}"));
        command.args(options).arg("-o").arg(log).arg(program());
        self.arguments(&mut command, out, threads);
        command
    }

    fn arguments(&self, command: &mut Command, out: &str, threads: u32) {
        let root = self.folder.path();
        command.arg("prepare").arg(root.join("recipe.toml"));
        command.arg("--out").arg(root.join(out));
        command.arg("--data-root").arg(root);
        command.args(["--threads", &threads.to_string()]);
        // No file of the experiment is reached through the working folder.
        command
            .current_dir("/")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
    }
}

fn assert_done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
}

fn no_panic(output: &Output) -> Result<(), String> {
    let err = String::from_utf8_lossy(&output.stderr);
    let panicked = output.status.code() == Some(101)
        || ["panicked", "a mistake in pausedata"]
            .iter()
            .any(|word| err.contains(word));
    match panicked {
        true => Err(format!("panic: {}", said(output))),
        false => Ok(()),
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    format!(
        "{:?}: {} {}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    )
}
