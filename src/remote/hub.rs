//! The Hugging Face hub: files of a dataset at the commit that its revision names now.

use serde::Deserialize;

use super::web::Web;
use super::{Address, Error, Object};

/// A file or folder, as the hub lists it.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Large>,
}

/// A large file: the hash of its contents, and its own size.
#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

/// The files at or below the address.
pub async fn list(web: &Web, address: &Address) -> Result<Vec<Object>, Error> {
    let (repository, revision) = address
        .place
        .split_once('@')
        .unwrap_or((&address.place, "main"));
    let revision = match revision {
        "~parquet" => "refs/convert/parquet",
        other => other,
    };
    let api = format!("{}/api/datasets/{repository}", web.hub);
    let failed = |message: String| Error::Failed {
        address: address.text.clone(),
        message,
    };
    let asked = format!("{api}/revision/{}", escape(revision, ""));
    let (commit, _) = web
        .json(&asked)
        .await
        .map_err(|error| renamed(error, address))?;
    let commit = commit.get("sha").and_then(|sha| sha.as_str());
    let commit = commit
        .ok_or_else(|| failed("the hub names no commit".into()))?
        .to_string();
    let (folder, is_flat) = match address.is_glob() {
        true => address.folder(),
        false => (
            address
                .path
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder),
            true,
        ),
    };
    let mut next = Some(format!(
        "{api}/tree/{commit}/{}?recursive={}",
        escape(folder, "/"),
        !is_flat
    ));
    let mut objects = Vec::new();
    while let Some(url) = next {
        // A token must not go where the hub does not live.
        if !url.starts_with(&format!("{}/", web.hub)) {
            return Err(failed(format!("the hub goes on at `{url}`")));
        }
        let (page, more) = web
            .json(&url)
            .await
            .map_err(|error| renamed(error, address))?;
        let entries: Vec<Entry> =
            serde_json::from_value(page).map_err(|error| failed(error.to_string()))?;
        let files = entries.into_iter().filter(|entry| entry.kind == "file");
        objects.extend(files.map(|entry| object(web, address, (repository, &commit), entry)));
        next = more;
    }
    if !address.is_glob() {
        objects.retain(|object| object.url == address.text);
    }
    Ok(objects)
}

fn object(web: &Web, address: &Address, at: (&str, &str), entry: Entry) -> Object {
    let (repository, commit) = at;
    let path = escape(&entry.path, "/");
    let (bytes, sha256) = match entry.lfs {
        Some(large) => (large.size, Some(large.oid)),
        None => (entry.size, None),
    };
    Object {
        url: format!("hf://datasets/{}/{}", address.place, entry.path),
        bytes,
        version: Some(sha256.clone().unwrap_or(entry.oid)),
        sha256,
        location: format!("{}/datasets/{repository}/resolve/{commit}/{path}", web.hub),
    }
}

/// The same error, of what the user wrote.
fn renamed(error: Error, address: &Address) -> Error {
    let address = address.text.clone();
    match error {
        Error::Missing { .. } => Error::Missing { address },
        Error::Denied { message, .. } => Error::Denied { address, message },
        other => other,
    }
}

/// Percent-encodes what may not stand in a URL's path; `kept` may.
fn escape(text: &str, kept: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c) || kept.contains(c);
    let mut escaped = String::new();
    for c in text.chars() {
        match plain(c) {
            true => escaped.push(c),
            false => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    escaped += &format!("%{byte:02X}");
                }
            }
        }
    }
    escaped
}
