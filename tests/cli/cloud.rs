//! Sources on other machines: a server of our own stands in for S3, the hub and the web.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};

use pausedata::progress::{Silent, Stop};
use pausedata::remote::{self, Access};

use super::sandbox::{Said, Sandbox};

/// What the server holds and does.
#[derive(Default)]
struct State {
    /// Contents and ETag by path.
    objects: BTreeMap<String, (Vec<u8>, String)>,
    /// Answers of JSON by path without its query.
    pages: HashMap<String, String>,
    /// How many of the next answers of objects are 503.
    refusals: usize,
    /// How many of the next answers of objects end after this many bytes.
    cuts: (usize, usize),
    /// Where every object ends, whatever its length is said to be.
    end: Option<usize>,
    /// Contents that change when they are fetched.
    changes: bool,
    /// Who lists waits here until so many do.
    meeting: Option<Arc<Barrier>>,
    /// What was asked: method, path, range.
    asked: Vec<(String, String, String)>,
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    url: String,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let server = Self { state, url };
        let state = server.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, stream) = (state.clone(), stream.unwrap());
                // A client that goes away is no concern of the server.
                std::thread::spawn(move || drop(answer(&state, &stream)));
            }
        });
        server
    }

    /// Has the sandbox's files of text under a path.
    fn with_text(self, sandbox: &Sandbox, folder: &str) -> Self {
        for file in 0..5 {
            let text = sandbox.read(&format!("text/{file}.jsonl")).into_bytes();
            let name = format!("{folder}/{file}.jsonl");
            let etag = format!("\"v1-{file}\"");
            self.state
                .lock()
                .unwrap()
                .objects
                .insert(name, (text, etag));
        }
        self
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    fn run(&self, sandbox: &Sandbox, arguments: &str) -> Said {
        let environment = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_SKIP_SIGNATURE", "true"),
            ("AWS_REGION", "us-east-1"),
            ("GOOGLE_BASE_URL", &self.url),
            ("GOOGLE_ALLOW_HTTP", "true"),
            ("GOOGLE_SKIP_SIGNATURE", "true"),
            ("HF_ENDPOINT", &self.url),
            ("HF_TOKEN", "secret"),
            ("NO_PROXY", "127.0.0.1"),
        ];
        Said::by(sandbox.command(arguments).envs(environment))
    }

    fn prepare(&self, sandbox: &Sandbox, path: &str, more: &str) -> Said {
        let set = format!("--set pretrain.sources.0.path={path}");
        self.run(
            sandbox,
            &format!("prepare recipe.toml --only pretrain --out out {set} {more}"),
        )
    }
}

fn answer(state: &Mutex<State>, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut range) = (String::new(), String::new());
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (method, target) = (words[0].to_string(), words[1].to_string());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_string();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("range")
            {
                range = value.to_string();
            }
        }
        let meeting = state.lock().unwrap().meeting.clone();
        if let Some(meeting) = meeting.filter(|_| target.contains("list-type=2")) {
            meeting.wait();
        }
        let (head, body, whole) = respond(&mut state.lock().unwrap(), &method, &target, &range);
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        if !whole {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// The head and the body of an answer, and whether that is all of it.
fn respond(state: &mut State, method: &str, target: &str, range: &str) -> (String, Vec<u8>, bool) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n")
    };
    let path = &path.replace("%2E", ".").replace("%2F", "/");
    state.asked.push((method.into(), path.into(), range.into()));
    if let Some(page) = state.pages.get(path) {
        let bytes = page.clone().into_bytes();
        return (head("200 OK", bytes.len(), ""), bytes, true);
    }
    if query.contains("list-type=2") {
        let bytes = listing(state, path).into_bytes();
        return (head("200 OK", bytes.len(), ""), bytes, true);
    }
    let Some((bytes, etag)) = state.objects.get(path).cloned() else {
        return (head("404 Not Found", 0, ""), Vec::new(), true);
    };
    if method == "GET" && range != "bytes=0-0" {
        if 0 < state.refusals {
            state.refusals -= 1;
            return (head("503 Slow Down", 0, ""), Vec::new(), true);
        }
        if state.changes {
            state
                .objects
                .insert(path.into(), (bytes.clone(), "\"v2\"".into()));
        }
    }
    let etag = state
        .objects
        .get(path)
        .map_or(etag, |(_, etag)| etag.clone());
    let more = format!("etag: {etag}\r\nlast-modified: Mon, 02 Nov 2026 10:00:00 GMT\r\n");
    let (all, mut first) = (bytes.len(), 0);
    let (status, part, more) = match range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) {
        None => ("200 OK", bytes, more),
        Some((start, end)) => {
            let start: usize = start.parse().unwrap();
            let end = end.parse().map_or(all, |end: usize| end + 1);
            first = start;
            let more = format!("{more}content-range: bytes {start}-{}/{all}\r\n", end - 1);
            ("206 Partial Content", bytes[start..end].to_vec(), more)
        }
    };
    let head = head(status, part.len(), &more);
    if method == "HEAD" {
        return (head, Vec::new(), true);
    }
    if let Some(end) = state.end.filter(|end| *end < first + part.len()) {
        return (head, part[..end.saturating_sub(first)].to_vec(), false);
    }
    let (cuts, most) = state.cuts;
    if 0 < cuts && most < part.len() {
        state.cuts.0 -= 1;
        return (head, part[..most].to_vec(), false);
    }
    (head, part, true)
}

fn listing(state: &State, bucket: &str) -> String {
    let bucket = format!("{}/", bucket.trim_end_matches('/'));
    let objects = state.objects.iter().filter_map(|(path, (bytes, etag))| {
        let key = path.strip_prefix(&bucket)?;
        let (time, size) = ("2026-11-02T10:00:00.000Z", bytes.len());
        Some(format!("<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"))
    });
    let objects: String = objects.collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>")
}

fn ok(said: &Said) {
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
}

fn gets(asked: &[(String, String, String)]) -> usize {
    let objects = asked
        .iter()
        .filter(|(method, path, _)| method == "GET" && path.ends_with(".jsonl"));
    objects.count()
}

#[test]
fn a_bucket_is_copied_once_and_serves_without_the_network() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/bucket/text");
    let glob = "s3://bucket/text/*.jsonl";
    ok(&server.prepare(&sandbox, glob, ""));
    assert_eq!(gets(&server.asked()), 5);
    let manifest = sandbox.read("out/data/pretrain/manifest.json");
    for words in ["s3://bucket/text/0.jsonl", "v1-0"] {
        assert!(manifest.contains(words), "{manifest}");
    }
    let digest = sandbox.digest("out/data/pretrain");
    // Copies are copies: the shards are those of local files.
    ok(&sandbox.run("prepare recipe.toml --only pretrain --out local"));
    for shard in ["train-00000-000.bin", "validation-00000-000.bin"] {
        let shard = |out: &str| sandbox.path(format!("{out}/data/pretrain/shards/{shard}"));
        let (remote, local) = (shard("out"), shard("local"));
        assert_eq!(
            pausedata::fs::read(&remote).unwrap(),
            pausedata::fs::read(&local).unwrap()
        );
    }
    ok(&server.run(&sandbox, "verify out/data/pretrain"));
    assert_eq!(gets(&server.asked()), 0);
    ok(&server.run(&sandbox, "verify out/data/pretrain --offline"));
    ok(&server.prepare(&sandbox, glob, "--offline --force"));
    assert_eq!(server.asked(), []);
    assert_eq!(sandbox.digest("out/data/pretrain"), digest);
}

#[test]
fn a_damaged_copy_is_noticed_and_fetched_again() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/bucket/text");
    let glob = "s3://bucket/text/*.jsonl";
    ok(&server.prepare(&sandbox, glob, ""));
    let copies = super::sandbox::files(&sandbox.path("cache/pausedata/sources/objects"));
    let copy = copies.iter().find(|path| path.ends_with("data")).unwrap();
    let mut bytes = pausedata::fs::read(copy).unwrap();
    bytes[30] ^= 1;
    sandbox.write(copy, &bytes);
    let said = server.prepare(&sandbox, glob, "--offline --force");
    assert!(said.err.contains("is damaged"), "{}", said.err);
    server.asked();
    ok(&server.prepare(&sandbox, glob, "--force"));
    assert_eq!(gets(&server.asked()), 1);
}

#[test]
fn what_is_not_there_is_said() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/bucket/text");
    let web = format!("{}/none.jsonl", server.url);
    for path in [
        "s3://bucket/none.jsonl",
        "s3://bucket/text/*.txt",
        "hf://datasets/a/b/*.jsonl",
        &web,
    ] {
        let said = server.prepare(&sandbox, path, "");
        assert_eq!(said.code, Some(1));
        assert!(
            said.err.contains(&format!("`{path}` is not there")),
            "{}",
            said.err
        );
    }
}

#[test]
fn refusals_and_cuts_only_cost_time() {
    for scheme in ["s3", "gs", "http"] {
        let sandbox = Sandbox::new();
        let server = Server::new().with_text(&sandbox, "/bucket/text");
        server.change(|state| (state.refusals, state.cuts) = (2, (2, 1000)));
        let path = match scheme {
            "http" => format!("{}/bucket/text/0.jsonl", server.url),
            scheme => format!("{scheme}://bucket/text/0.jsonl"),
        };
        let said = server.prepare(&sandbox, &path, "");
        let asked = server.asked();
        assert_eq!(said.code, Some(0), "{scheme}: {asked:?} {}", said.err);
        let resumed = asked
            .iter()
            .any(|(_, _, range)| range.starts_with("bytes=1000-"));
        assert!(resumed, "{scheme}: {asked:?}");
        ok(&server.run(&sandbox, "verify out/data/pretrain"));
    }
}

#[test]
fn an_object_that_always_ends_too_early_is_an_error_and_no_copy() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/text");
    server.change(|state| state.end = Some(700));
    let access = Access {
        cache: Some(sandbox.path("copies")),
        tries: 2,
        ..Access::default()
    };
    let fetch = || {
        let copies = remote::find(&format!("{}/text/0.jsonl", server.url), &access).unwrap();
        let fetched = remote::fetch(copies.iter(), &Silent, &Stop::default());
        fetched.map(|()| copies[0].path())
    };
    let text = sandbox.read("text/0.jsonl");
    // As often as it is tried: what is half there never has the name of a copy.
    for _ in 0..2 {
        let error = fetch().unwrap_err().to_string();
        for part in ["/text/0.jsonl", "700", &text.len().to_string()] {
            assert!(error.contains(part), "{error}");
        }
        let files = super::sandbox::files(&sandbox.path("copies/objects"));
        assert!(
            !files.iter().any(|path| path.ends_with("data")),
            "{files:?}"
        );
    }
    let offline = Access {
        network: remote::Network::Offline,
        ..access.clone()
    };
    assert!(remote::find(&format!("{}/text/0.jsonl", server.url), &offline).is_err());
    server.asked();
    server.change(|state| state.end = None);
    let copy = fetch().unwrap();
    assert_eq!(pausedata::fs::read(&copy).unwrap(), text.as_bytes());
    let asked = server.asked();
    let resumed = asked.iter().any(|(_, _, range)| range == "bytes=700-");
    assert!(resumed, "{asked:?}");
}

#[test]
fn two_programs_fill_one_cache_with_one_copy_of_each() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/bucket/text");
    // Both have listed before either fetches.
    server.change(|state| state.meeting = Some(Arc::new(Barrier::new(2))));
    let said = std::thread::scope(|scope| {
        let prepare = |out: &'static str| {
            let (server, sandbox) = (&server, &sandbox);
            scope.spawn(move || {
                let set = "--set pretrain.sources.0.path=s3://bucket/text/*.jsonl";
                server.run(
                    sandbox,
                    &format!("prepare recipe.toml --only pretrain --out {out} {set}"),
                )
            })
        };
        let both = [prepare("one"), prepare("two")];
        both.map(|one| one.join().unwrap())
    });
    said.iter().for_each(ok);
    assert_eq!(gets(&server.asked()), 5);
    let digest = |out: &str| sandbox.digest(&format!("{out}/data/pretrain"));
    assert_eq!(digest("one"), digest("two"));
    let files = super::sandbox::files(&sandbox.path("cache/pausedata/sources"));
    let named = |name: &str| files.iter().filter(|path| path.ends_with(name)).count();
    assert_eq!(
        (named("data"), named("record.json"), named("part")),
        (5, 5, 0)
    );
    let left = files
        .iter()
        .filter(|path| path.display().to_string().contains(".tmp-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn another_run_goes_on_where_one_was_cut() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/text");
    let path = format!("{}/text/0.jsonl", server.url);
    let part = |bytes: &[u8]| {
        let objects = sandbox.path("cache/pausedata/sources/objects");
        let folders = pausedata::fs::list(&objects).unwrap();
        sandbox.write(folders[0].join("part"), bytes);
        std::fs::remove_file(folders[0].join("data")).unwrap();
        std::fs::remove_file(folders[0].join("record.json")).unwrap();
    };
    ok(&server.prepare(&sandbox, &path, ""));
    let text = sandbox.read("text/0.jsonl");
    part(&text.as_bytes()[..700]);
    server.asked();
    ok(&server.prepare(&sandbox, &path, "--force"));
    let asked = server.asked();
    assert!(
        asked.iter().any(|(_, _, range)| range == "bytes=700-"),
        "{asked:?}"
    );
    ok(&server.run(&sandbox, "verify out/data/pretrain"));
}

#[test]
fn an_object_that_changes_is_refused() {
    for path in ["s3://bucket/text/*.jsonl", "http"] {
        let sandbox = Sandbox::new();
        let server = Server::new().with_text(&sandbox, "/bucket/text");
        server.change(|state| state.changes = true);
        let web = format!("{}/bucket/text/0.jsonl", server.url);
        let said = server.prepare(&sandbox, if path == "http" { &web } else { path }, "");
        assert_eq!(said.code, Some(1));
        assert!(
            said.err.contains("changed while it was fetched"),
            "{}",
            said.err
        );
        assert!(!sandbox.path("out/data/pretrain/manifest.json").exists());
    }
}

#[test]
fn a_new_version_is_another_input() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/bucket/text");
    let glob = "s3://bucket/text/*.jsonl";
    ok(&server.prepare(&sandbox, glob, ""));
    server
        .change(|state| state.objects.get_mut("/bucket/text/3.jsonl").unwrap().1 = "\"v2\"".into());
    let said = server.prepare(&sandbox, glob, "");
    assert!(said.err.contains("corpus.3.version"), "{}", said.err);
    let said = server.run(&sandbox, "verify out/data/pretrain");
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("no longer the version"), "{}", said.out);
}

#[test]
fn the_hub_is_read_at_one_commit() {
    let sandbox = Sandbox::new();
    let server = Server::new().with_text(&sandbox, "/datasets/org/name/resolve/c0ffee/data");
    let entry = |file: usize| {
        let size = sandbox.read(&format!("text/{file}.jsonl")).len();
        format!(
            "{{\"type\":\"file\",\"path\":\"data/{file}.jsonl\",\"size\":{size},\"oid\":\"{file}\"}}"
        )
    };
    let entries: Vec<String> = (0..5).map(entry).collect();
    server.change(|state| {
        let api = "/api/datasets/org/name";
        let commit = "{\"sha\":\"c0ffee\"}".to_string();
        state.pages.insert(format!("{api}/revision/v1"), commit);
        let tree = format!("[{}]", entries.join(","));
        state.pages.insert(format!("{api}/tree/c0ffee/data"), tree);
    });
    ok(&server.prepare(&sandbox, "hf://datasets/org/name@v1/data/*.jsonl", ""));
    ok(&server.run(&sandbox, "verify out/data/pretrain --offline"));
    // Whose contents do not have the hash that the hub tells is refused.
    let wrong = entries[0].replace(
        "\"oid\":\"0\"",
        "\"oid\":\"x\",\"lfs\":{\"oid\":\"00\",\"size\":SIZE}",
    );
    let size = sandbox.read("text/0.jsonl").len().to_string();
    let tree = format!("[{}]", wrong.replace("SIZE", &size));
    server.change(|state| {
        drop(
            state
                .pages
                .insert("/api/datasets/org/name/tree/c0ffee/data".into(), tree),
        )
    });
    let said = server.prepare(
        &sandbox,
        "hf://datasets/org/name@v1/data/0.jsonl",
        "--force",
    );
    assert!(
        said.err.contains("changed while it was fetched"),
        "{}",
        said.err
    );
}
