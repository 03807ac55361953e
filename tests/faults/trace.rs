//! What `strace` says: which calls a run makes, and which fault a run met.

use std::collections::BTreeMap;

/// A call that a traced run made on a file of the experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `write`, `fsync`, ...
    pub name: String,
    /// Its file below the experiment's folder, or `stdout`; temporary names
    /// without what makes each another.
    pub file: String,
    /// The how-manieth call of this name on its thread, from 1: `when=` of strace.
    pub when: u32,
    /// Whether the thread is the one that makes most calls.
    pub main: bool,
    /// The fault that strace says it injected here.
    pub injected: bool,
}

/// The calls in a log of `strace -f -y` that touch files below `root`, or stdout.
pub fn calls(log: &str, root: &str) -> Vec<Call> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut found = Vec::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        // `<... read resumed>` ends a call that was counted when it began.
        let Some((name, arguments)) = rest.split_once('(').filter(|(name, _)| is_name(name)) else {
            continue;
        };
        let when = counts.entry((thread, name)).or_default();
        *when += 1;
        if let Some(file) = file(name, arguments, root) {
            let call = Call {
                name: name.into(),
                file,
                when: *when,
                main: false,
                injected: rest.ends_with("(INJECTED)"),
            };
            found.push((thread, call));
        }
    }
    let busiest = busiest(&found);
    let marked = found.into_iter().map(|(thread, call)| Call {
        main: Some(thread.to_string()) == busiest,
        ..call
    });
    marked.collect()
}

fn busiest(found: &[(&str, Call)]) -> Option<String> {
    let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
    for (thread, _) in found {
        *threads.entry(thread).or_default() += 1;
    }
    let most = threads.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(thread, _)| thread.to_string())
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !text.is_empty() && text.chars().all(letter)
}

/// The last path below `root` among the arguments: of a rename, where to.
fn file(name: &str, arguments: &str, root: &str) -> Option<String> {
    if name == "write" && arguments.starts_with("1<") {
        return Some("stdout".into());
    }
    let (_, after) = arguments.rsplit_once(&format!("{root}/"))?;
    let end = after.find(['"', '>']).unwrap_or(after.len());
    Some(without_process(&after[..end]))
}

/// `a/.tmp-b` for `a/.tmp-1234-0123456789abcdef-b`.
fn without_process(path: &str) -> String {
    const MARK: &str = ".tmp-";
    match path.split_once(MARK) {
        Some((before, after)) => {
            let name = after.splitn(3, '-').nth(2).unwrap_or(after);
            format!("{before}{MARK}{name}")
        }
        None => path.into(),
    }
}

/// Checks this module on a log as strace writes it.
pub fn self_check() {
    let log = "\
7 openat(AT_FDCWD</>, \"/etc/ld.so.cache\", O_RDONLY) = 3</etc/ld.so.cache>
7 openat(AT_FDCWD</>, \"/w/out/.tmp-7-0123456789abcdef-a.bin\", O_RDWR|O_CREAT) = 3</w/out/.tmp-7-0123456789abcdef-a.bin>
7 write(3</w/out/.tmp-7-0123456789abcdef-a.bin>, \"x\", 1) = 1
8 openat(AT_FDCWD</>, \"/w/text/0.jsonl\", O_RDONLY <unfinished ...>
7 rename(\"/w/out/.tmp-7-0123456789abcdef-a.bin\", \"/w/out/a.bin\") = -1 EIO (Input/output error) (INJECTED)
8 <... openat resumed>) = 4</w/text/0.jsonl>
7 write(1<pipe:[3]>, \"done\", 4) = 4
8 +++ exited with 0 +++
";
    let calls = calls(log, "/w");
    let shown: Vec<String> = (calls.iter())
        .map(|call| {
            let (main, injected) = (u8::from(call.main), u8::from(call.injected));
            format!("{} {} {} {main}{injected}", call.name, call.when, call.file)
        })
        .collect();
    let expected = [
        "openat 2 out/.tmp-a.bin 10",
        "write 1 out/.tmp-a.bin 10",
        "openat 1 text/0.jsonl 00",
        "rename 1 out/a.bin 11",
        "write 2 stdout 10",
    ];
    assert_eq!(shown, expected);
}
