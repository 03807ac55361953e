//! Objects of other machines, copied into a cache before they are read.
//!
//! A URL, which may be a glob where the store can list, becomes [`Copy`]s: what the
//! store says there is, and where its copy lies. A copy is fetched once, with as many
//! requests as it takes, and appears by rename when its length is right and the store
//! still says that it is the same object. Nothing that was copied is ever removed.
//!
//! **Invariant**: a copy belongs to one version of one object; an object that changes
//! gets another. What was listed is kept too, so that without the network a glob means
//! all that it meant, or is refused.

mod copy;
mod error;
#[cfg(feature = "cloud")]
mod hub;
#[cfg(feature = "cloud")]
mod link;
#[cfg(feature = "cloud")]
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use copy::Copy;
pub use error::Error;

use crate::digest::Digest;
use crate::fs;
use crate::progress::{Progress, Stop, Unit};

/// How objects of other machines are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The folder of copies; none where nobody said.
    pub cache: Option<PathBuf>,
    /// Whether anything may be fetched.
    pub network: Network,
    /// How often in a row a request may fail before that is an error.
    pub tries: u32,
}

/// Whether anything may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// What has no copy is fetched.
    Online,
    /// Copies have to do.
    Offline,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            cache: None,
            network: Network::Online,
            tries: 8,
        }
    }
}

/// An object, as its store tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Its URL.
    pub url: String,
    /// Its size.
    pub bytes: u64,
    /// What changes with its contents: an ETag, a time, a hash; none where the server tells none.
    pub version: Option<String>,
    /// SHA-256 of its contents, where the store tells that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What to ask the store for.
    #[serde(skip)]
    location: String,
}

/// Kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    S3,
    Gs,
    Hf,
    Http,
}

/// A URL, or a glob of URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    scheme: Scheme,
    /// All of it.
    text: String,
    /// What stands before the path: bucket, repository with its revision, or host.
    place: String,
    /// The path, which may be a glob.
    path: String,
}

/// Whether a source's path is a URL.
pub fn is_address(path: &str) -> bool {
    path.contains("://")
}

/// The part of a URL that ends as its file does.
pub fn file_name(url: &str) -> &str {
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    match url.find(['?', '#']) {
        Some(end) if is_web => url.get(..end).unwrap_or(url),
        _ => url,
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::Address {
            address: text.into(),
            problem,
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "hf" => Scheme::Hf,
            "http" | "https" => Scheme::Http,
            _ => {
                return Err(wrong(
                    "its scheme is none of `s3`, `gs`, `hf`, `https` and `http`",
                ));
            }
        };
        let (place, path) = match scheme {
            Scheme::Hf => {
                let repository = rest.strip_prefix("datasets/").ok_or_else(|| {
                    wrong("expected `hf://datasets/ORGANISATION/NAME[@REVISION]/PATH`")
                })?;
                let organisation = repository.find('/').map_or(rest.len(), |at| at + 1);
                let name = repository
                    .get(organisation..)
                    .and_then(|rest| rest.find('/'));
                let at = name.map_or(repository.len(), |at| organisation + at);
                (
                    repository.get(..at).unwrap_or_default(),
                    repository.get(at + 1..).unwrap_or_default(),
                )
            }
            _ => rest.split_once('/').unwrap_or((rest, "")),
        };
        if place.is_empty() || path.is_empty() || path.ends_with('/') {
            return Err(wrong("it names no object"));
        }
        if scheme == Scheme::Http && place.contains('@') {
            return Err(wrong(
                "it holds a password, and recipes are copied into datasets",
            ));
        }
        let address = Self {
            scheme,
            text: text.into(),
            place: place.into(),
            path: path.into(),
        };
        if scheme == Scheme::Http && file_name(text).contains(['*', '[']) {
            return Err(wrong(
                "web servers do not list what they have: name each file",
            ));
        }
        Ok(address)
    }

    /// Whether it can mean several objects.
    fn is_glob(&self) -> bool {
        self.scheme != Scheme::Http && self.path.contains(['*', '?', '['])
    }

    /// The folder below which everything that the glob means lies, and whether all of it
    /// lies right there.
    #[cfg(feature = "cloud")]
    fn folder(&self) -> (&str, bool) {
        let glob = self.path.find(['*', '?', '[']).unwrap_or(self.path.len());
        let fixed = self.path.get(..glob).unwrap_or_default();
        let at = fixed.rfind('/').unwrap_or(0);
        let below = self.path.get(at..).unwrap_or_default();
        let below = below.strip_prefix('/').unwrap_or(below);
        (fixed.get(..at).unwrap_or_default(), !below.contains('/'))
    }

    /// The server that stands in for the usual one; the same URL means other things there.
    fn server(&self) -> String {
        let names: &[&str] = match self.scheme {
            Scheme::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
            Scheme::Gs => &["GOOGLE_BASE_URL"],
            Scheme::Hf => &["HF_ENDPOINT"],
            Scheme::Http => &[],
        };
        let mut servers = names.iter().filter_map(|name| std::env::var(name).ok());
        servers
            .find(|server| !server.is_empty())
            .unwrap_or_default()
    }
}

/// What a URL or glob meant when it was last listed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    pattern: String,
    server: String,
    objects: Vec<Object>,
}

/// The objects that a URL or glob means, sorted by URL.
///
/// # Errors
/// Where it means none, or where it was never listed and nothing may be fetched.
pub fn find(pattern: &str, access: &Access) -> Result<Vec<Arc<Copy>>, Error> {
    let address = Address::parse(pattern)?;
    let cache = access.cache.as_deref().ok_or(Error::NoCache)?;
    let server = address.server();
    let name = Digest::of(format!("{pattern}\0{server}").as_bytes());
    let path = cache.join("listings").join(format!("{name}.json"));
    match access.network {
        Network::Offline => known(&address, &path)?
            .into_iter()
            .map(|object| {
                let copy = Copy::new(object, &server, cache);
                match copy.is_there() {
                    true => Ok(Arc::new(copy)),
                    false => Err(Error::NoCopy {
                        address: copy.object.url.clone(),
                        cache: cache.into(),
                    }),
                }
            })
            .collect(),
        Network::Online => online(&address, access, cache, &server, &path),
    }
}

/// What was listed before.
fn known(address: &Address, path: &Path) -> Result<Vec<Object>, Error> {
    let bytes = match fs::read(path) {
        Err(error) if error.is_missing() => {
            let address = address.text.clone();
            return Err(Error::NotListed { address });
        }
        other => other?,
    };
    let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| Error::Record {
        path: path.into(),
        message: error.to_string(),
    })?;
    Ok(listing.objects)
}

#[cfg(feature = "cloud")]
fn online(
    address: &Address,
    access: &Access,
    cache: &Path,
    server: &str,
    path: &Path,
) -> Result<Vec<Arc<Copy>>, Error> {
    let link = Arc::new(link::Link::open(address, server, access.tries)?);
    let mut objects = link.list(address)?;
    objects.sort_by(|a, b| a.url.cmp(&b.url));
    if objects.is_empty() {
        let address = address.text.clone();
        return Err(Error::Missing { address });
    }
    let listing = Listing {
        pattern: address.text.clone(),
        server: server.into(),
        objects,
    };
    let bytes = serde_json::to_vec_pretty(&listing).map_err(|error| Error::Record {
        path: path.into(),
        message: error.to_string(),
    })?;
    fs::write(path, &bytes)?;
    let copies = listing.objects.into_iter();
    Ok(copies
        .map(|object| Arc::new(Copy::new(object, server, cache).over(link.clone())))
        .collect())
}

#[cfg(not(feature = "cloud"))]
fn online(
    address: &Address,
    _: &Access,
    _: &Path,
    _: &str,
    _: &Path,
) -> Result<Vec<Arc<Copy>>, Error> {
    // `folder` and globs are for those who list.
    let glob = address.is_glob();
    let address = address.text.clone();
    Err(Error::NoFeature { address, glob })
}

/// Fetches what has no copy yet, several objects at a time.
pub fn fetch<'a>(
    copies: impl Iterator<Item = &'a Arc<Copy>>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    let missing: Vec<&Arc<Copy>> = copies.filter(|copy| !copy.is_proved()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let total = missing.iter().map(|copy| copy.object.bytes).sum();
    progress.start("fetch", Some(total), Unit::Bytes);
    let done = copy::fetch_all(&missing, progress, stop);
    progress.finish();
    done
}
