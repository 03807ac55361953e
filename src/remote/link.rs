//! Asking stores for lists and objects.
//!
//! Buckets are reached through `object_store`, which finds credentials and signs; the
//! hub and web servers through its HTTP client. One thread drives all requests of a
//! source; the rest of the program knows nothing of them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use glob::{MatchOptions, Pattern};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::copy::{Copy, Record};
use super::web::Web;
use super::{Address, Error, Object, Scheme, hub};
use crate::digest::Digest;
use crate::fs;
use crate::progress::{Progress, Stop};

/// Objects that are fetched at the same time.
const AT_ONCE: usize = 8;
/// The longest wait for the next bytes of an object.
const IDLE: Duration = Duration::from_secs(60);
/// The first wait before a request is made again; it doubles, up to the longest.
const WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A failure, and whether another try may do.
pub struct Fault {
    pub error: Error,
    pub again: bool,
}

/// What a store answers when it is asked for an object from some byte on.
pub struct Answer {
    /// The byte that comes first; a server that cannot begin elsewhere begins at 0.
    pub start: u64,
    /// The size of the object.
    pub bytes: u64,
    pub version: Option<String>,
    pub body: BoxStream<'static, Result<Vec<u8>, String>>,
}

enum Store {
    Bucket(Arc<dyn ObjectStore>),
    Web(Web),
}

/// The way to the store of one source.
pub struct Link {
    runtime: Runtime,
    store: Store,
    tries: u32,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// How long to wait after so many failures in a row.
pub fn wait(failures: u32) -> Duration {
    let doubled = 1u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    WAIT.saturating_mul(doubled).min(WAIT_MAX)
}

impl Link {
    /// Gets ready; nothing is asked yet.
    pub fn open(address: &Address, server: &str, tries: u32) -> Result<Self, Error> {
        let failed = |message: String| Error::Failed {
            address: address.text.clone(),
            message,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let retry = RetryConfig {
            max_retries: tries as usize,
            retry_timeout: Duration::from_secs(60),
            ..RetryConfig::default()
        };
        // A large object takes its time; silence is what counts, and that is measured below.
        let (key, day) = (ClientConfigKey::Timeout, "1 day");
        let store = match address.scheme {
            Scheme::S3 => {
                let store = AmazonS3Builder::from_env()
                    .with_bucket_name(&address.place)
                    .with_config(AmazonS3ConfigKey::Client(key), day)
                    .with_retry(retry)
                    .build();
                Store::Bucket(Arc::new(store.map_err(|error| failed(chain(&error)))?))
            }
            Scheme::Gs => {
                let store = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(&address.place)
                    .with_config(GoogleConfigKey::Client(key), day)
                    .with_retry(retry)
                    .build();
                Store::Bucket(Arc::new(store.map_err(|error| failed(chain(&error)))?))
            }
            Scheme::Hf => Store::Web(Web::of_hub(server, tries).map_err(failed)?),
            Scheme::Http => Store::Web(Web::open(&address.text, tries).map_err(failed)?),
        };
        Ok(Self {
            runtime: runtime.map_err(|error| failed(error.to_string()))?,
            store,
            tries: tries.max(1),
        })
    }

    /// The objects that an address means, in no order.
    pub fn list(&self, address: &Address) -> Result<Vec<Object>, Error> {
        let found = self.runtime.block_on(async {
            match &self.store {
                Store::Bucket(store) => list_bucket(store.as_ref(), address).await,
                Store::Web(web) if address.scheme == Scheme::Hf => hub::list(web, address).await,
                Store::Web(web) => Ok(vec![web.look(&address.text).await?]),
            }
        })?;
        if !address.is_glob() {
            return Ok(found);
        }
        let glob = Pattern::new(&address.path).map_err(|_| Error::Address {
            address: address.text.clone(),
            problem: "it is a malformed glob",
        })?;
        let options = MatchOptions {
            require_literal_leading_dot: true,
            require_literal_separator: true,
            ..MatchOptions::default()
        };
        let start = address.text.len() - address.path.len();
        let means = |object: &Object| {
            let path = object.url.get(start..).unwrap_or_default();
            glob.matches_with(path, options)
        };
        Ok(found.into_iter().filter(means).collect())
    }

    /// Makes sure of copies, several at a time.
    pub fn fetch(
        &self,
        copies: &[&Arc<Copy>],
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<(), Error> {
        let fetches = copies
            .iter()
            .map(|copy| Fetch {
                link: self,
                copy,
                progress,
                stop,
            })
            .map(Fetch::run);
        let mut fetches = stream::iter(fetches).buffer_unordered(AT_ONCE);
        self.runtime.block_on(async {
            while fetches.try_next().await?.is_some() {}
            Ok(())
        })
    }

    /// Asks for an object from some byte on.
    async fn ask(&self, object: &Object, start: u64) -> Result<Answer, Fault> {
        let store = match &self.store {
            Store::Web(web) => return web.ask(object, start).await,
            Store::Bucket(store) => store,
        };
        let fault = |error| Fault {
            error: explain(&object.url, &error),
            again: false,
        };
        let path = Path::parse(&object.location).map_err(|error| fault(error.into()))?;
        let options = GetOptions {
            range: (0 < start).then_some(GetRange::Offset(start)),
            ..GetOptions::default()
        };
        let result = store.get_opts(&path, options).await.map_err(fault)?;
        let (bytes, version) = (result.meta.size, result.meta.e_tag.clone());
        let body = result.into_stream();
        let body = body.map(|bytes| bytes.map(Vec::from).map_err(|error| chain(&error)));
        Ok(Answer {
            start,
            bytes,
            version,
            body: body.boxed(),
        })
    }
}

async fn list_bucket(store: &dyn ObjectStore, address: &Address) -> Result<Vec<Object>, Error> {
    let refused = |error: object_store::Error| explain(&address.text, &error);
    let base = address.text.len() - address.path.len();
    let object = |meta: ObjectMeta| Object {
        url: format!(
            "{}{}",
            address.text.get(..base).unwrap_or_default(),
            meta.location
        ),
        bytes: meta.size,
        version: meta.e_tag.or_else(|| Some(meta.last_modified.to_rfc3339())),
        sha256: None,
        location: meta.location.to_string(),
    };
    if !address.is_glob() {
        let path = Path::parse(&address.path).map_err(|error| refused(error.into()))?;
        return Ok(vec![object(store.head(&path).await.map_err(refused)?)]);
    }
    let (folder, is_flat) = address.folder();
    let folder = Path::parse(folder).map_err(|error| refused(error.into()))?;
    let folder = Some(&folder);
    let metas = match is_flat {
        true => store
            .list_with_delimiter(folder)
            .await
            .map(|list| list.objects),
        false => store.list(folder).try_collect().await,
    };
    Ok(metas.map_err(refused)?.into_iter().map(object).collect())
}

/// One object on its way.
struct Fetch<'a> {
    link: &'a Link,
    copy: &'a Arc<Copy>,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

/// What is here of an object, and the digest of that.
struct Part {
    file: File,
    bytes: u64,
    blake3: blake3::Hasher,
    sha256: Sha256,
}

impl Fetch<'_> {
    async fn run(self) -> Result<(), Error> {
        let object = &self.copy.object;
        if self.copy.is_proved() {
            return Ok(());
        }
        fs::create_dir(&self.copy.folder)?;
        let lock = self.lock().await?;
        // What the server gives no version of may have changed under its name.
        if object.version.is_some() && self.copy.prove()? {
            self.progress.advance(object.bytes);
            return Ok(());
        }
        let path = self.copy.folder.join("part");
        let mut part = Part::open(&path, object)?;
        self.progress.advance(part.bytes);
        let result = self.complete(&mut part).await;
        part.file
            .sync_all()
            .map_err(fs::Error::new("sync", &path))?;
        result?;
        let sha256 = format!("{:x}", Hex(&part.sha256.finalize()));
        if object.sha256.as_ref().is_some_and(|sha| *sha != sha256) {
            fs::remove_file(&path)?;
            return Err(Error::Changed {
                address: object.url.clone(),
                expected: object.sha256.clone().unwrap_or_default(),
                found: sha256,
            });
        }
        fs::publish(&path, &self.copy.path())?;
        let record = Record {
            object: object.clone(),
            digest: Digest(*part.blake3.finalize().as_bytes()),
        };
        let path = self.copy.record_path();
        let bytes = serde_json::to_vec_pretty(&record).map_err(|error| Error::Record {
            path: path.clone(),
            message: error.to_string(),
        })?;
        fs::write(&path, &bytes)?;
        self.copy.set_proved();
        drop(lock);
        Ok(())
    }

    /// Waits until no other process fetches the same.
    async fn lock(&self) -> Result<fs::Lock, Error> {
        loop {
            if self.stop.requested() {
                return Err(Error::Stopped);
            }
            if let Some(lock) = fs::lock_dir(&self.copy.folder)? {
                return Ok(lock);
            }
            tokio::time::sleep(WAIT).await;
        }
    }

    /// Asks until all is here, or nothing more comes.
    async fn complete(&self, part: &mut Part) -> Result<(), Error> {
        let object = &self.copy.object;
        let mut failures = 0;
        while part.bytes < object.bytes {
            let before = part.bytes;
            let Err(fault) = self.go_on(part).await else {
                continue;
            };
            failures = if before < part.bytes { 1 } else { failures + 1 };
            if !fault.again || self.link.tries <= failures {
                return Err(fault.error);
            }
            tokio::time::sleep(wait(failures)).await;
        }
        Ok(())
    }

    /// Appends what one answer brings; an answer that ends too early is a fault.
    async fn go_on(&self, part: &mut Part) -> Result<(), Fault> {
        let object = &self.copy.object;
        let fatal = |error| Fault {
            error,
            again: false,
        };
        let mut answer = self.link.ask(object, part.bytes).await?;
        if (answer.bytes, &answer.version) != (object.bytes, &object.version) {
            let told = |bytes: u64, version: &Option<String>| {
                format!(
                    "{bytes} bytes, version {}",
                    version.as_deref().unwrap_or("unknown")
                )
            };
            return Err(fatal(Error::Changed {
                address: object.url.clone(),
                expected: told(object.bytes, &object.version),
                found: told(answer.bytes, &answer.version),
            }));
        }
        if answer.start != part.bytes {
            part.restart(&self.copy.folder).map_err(fatal)?;
        }
        loop {
            if self.stop.requested() {
                return Err(fatal(Error::Stopped));
            }
            let cut = |part: &Part, message: String| Fault {
                error: Error::Cut {
                    address: object.url.clone(),
                    done: part.bytes,
                    bytes: object.bytes,
                    message,
                },
                again: true,
            };
            let next = tokio::time::timeout(IDLE, answer.body.next()).await;
            match next {
                Err(_) => return Err(cut(part, "nothing came for a minute".into())),
                Ok(Some(Err(message))) => return Err(cut(part, message)),
                Ok(None) if part.bytes < object.bytes => {
                    return Err(cut(part, "the answer ended too early".into()));
                }
                Ok(None) => return Ok(()),
                Ok(Some(Ok(bytes))) => {
                    part.add(&bytes, object, &self.copy.folder).map_err(fatal)?;
                    self.progress.advance(bytes.len() as u64);
                }
            }
        }
    }
}

impl Part {
    /// What an earlier fetch left, where it is known to be of the same version.
    fn open(path: &FilePath, object: &Object) -> Result<Self, Error> {
        let file = fs::open_to_change(path)?;
        let mut part = Self {
            file,
            bytes: fs::size(path)?,
            blake3: blake3::Hasher::new(),
            sha256: Sha256::new(),
        };
        if object.version.is_none() || object.bytes < part.bytes {
            part.restart(path)?;
            return Ok(part);
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = part.file.read(&mut buffer);
            let n = n.map_err(fs::Error::new("read", path))?;
            match buffer.get(..n) {
                Some(read) if !read.is_empty() => {
                    part.blake3.update(read);
                    part.sha256.update(read);
                }
                _ => return Ok(part),
            }
        }
    }

    fn restart(&mut self, path: &FilePath) -> Result<(), Error> {
        let mut empty = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0)).map(drop)
        };
        empty().map_err(fs::Error::new("write", path))?;
        (self.bytes, self.blake3, self.sha256) = (0, blake3::Hasher::new(), Sha256::new());
        Ok(())
    }

    fn add(&mut self, bytes: &[u8], object: &Object, path: &FilePath) -> Result<(), Error> {
        let after = self.bytes + bytes.len() as u64;
        if object.bytes < after {
            return Err(Error::Changed {
                address: object.url.clone(),
                expected: format!("{} bytes", object.bytes),
                found: format!("at least {after}"),
            });
        }
        let written = self.file.write_all(bytes);
        written.map_err(fs::Error::new("write", path))?;
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        self.bytes = after;
        Ok(())
    }
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::LowerHex for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many name their cause themselves.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn explain(address: &str, error: &object_store::Error) -> Error {
    let address = address.to_string();
    match error {
        object_store::Error::NotFound { .. } => Error::Missing { address },
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Error::Denied {
            address,
            message: chain(error),
        },
        _ => Error::Failed {
            address,
            message: chain(error),
        },
    }
}
