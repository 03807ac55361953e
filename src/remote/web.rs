//! Web servers: objects by plain requests.

use std::time::Duration;

use futures_util::StreamExt;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpRequest, HttpRequestBody, HttpResponse,
    ReqwestConnector,
};

use super::link::{Answer, Fault, chain, wait};
use super::{Error, Object};

/// The longest that a server may ask us to wait.
const ASKED_WAIT_MAX: u64 = 60;

/// A client of one web server.
pub struct Web {
    client: HttpClient,
    /// The hub, where that is what it is.
    pub hub: String,
    token: Option<String>,
    tries: u32,
}

impl Web {
    /// For one URL.
    pub fn open(url: &str, tries: u32) -> Result<Self, String> {
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(Duration::from_secs(10))
            .with_allow_http(url.starts_with("http://"));
        let client = ReqwestConnector::default().connect(&options);
        Ok(Self {
            client: client.map_err(|error| chain(&error))?,
            hub: String::new(),
            token: None,
            tries: tries.max(1),
        })
    }

    /// For the hub, or what stands in for it.
    pub fn of_hub(server: &str, tries: u32) -> Result<Self, String> {
        let hub = match server {
            "" => "https://huggingface.co",
            server => server.trim_end_matches('/'),
        };
        let token = std::env::var("HF_TOKEN").ok();
        Ok(Self {
            hub: hub.into(),
            token: token.filter(|token| !token.is_empty()),
            ..Self::open(hub, tries)?
        })
    }

    /// One request, which may fail.
    async fn request(&self, url: &str, range: Option<&str>) -> Result<HttpResponse, Fault> {
        let failed = |message: String, again| Fault {
            error: Error::Failed {
                address: url.into(),
                message,
            },
            again,
        };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url
            .parse()
            .map_err(|_| failed("it is not a URL".into(), false))?;
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers = [("authorization", bearer.as_deref()), ("range", range)];
        for (name, value) in headers {
            if let Some(value) = value {
                let value = value
                    .parse()
                    .map_err(|_| failed(format!("`{name}` is not text"), false))?;
                request.headers_mut().insert(name, value);
            }
        }
        let response = self.client.execute(request).await;
        let response = response.map_err(|error| failed(chain(&error), true))?;
        let status = response.status();
        let address = url.to_string();
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            404 | 410 => Err(Fault {
                error: Error::Missing { address },
                again: false,
            }),
            401 | 403 => Err(Fault {
                error: Error::Denied {
                    address,
                    message: status.to_string(),
                },
                again: false,
            }),
            code => {
                let again = matches!(code, 408 | 429 | 500..=599);
                let asked = header(&response, "retry-after").and_then(|text| text.parse().ok());
                if let (Some(seconds), true) = (asked, again) {
                    let asked = Duration::from_secs(ASKED_WAIT_MAX.min(seconds));
                    tokio::time::sleep(asked).await;
                }
                Err(failed(status.to_string(), again))
            }
        }
    }

    /// A request that is made again until it works, or does not any more.
    async fn insist(&self, url: &str, range: Option<&str>) -> Result<HttpResponse, Error> {
        let mut failures = 0;
        loop {
            match self.request(url, range).await {
                Ok(response) => return Ok(response),
                Err(fault) => {
                    failures += 1;
                    if !fault.again || self.tries <= failures {
                        return Err(fault.error);
                    }
                    tokio::time::sleep(wait(failures)).await;
                }
            }
        }
    }

    /// A JSON value, and the URL of the next page.
    pub async fn json(&self, url: &str) -> Result<(serde_json::Value, Option<String>), Error> {
        let failed = |message: String| Error::Failed {
            address: url.into(),
            message,
        };
        let response = self.insist(url, None).await?;
        let next = header(&response, "link").and_then(next_page);
        let body = response.into_body().bytes().await;
        let body = body.map_err(|error| failed(chain(&error)))?;
        let value = serde_json::from_slice(&body);
        Ok((value.map_err(|error| failed(error.to_string()))?, next))
    }

    /// What the server says about a URL. Some servers sign for GET alone, so its first
    /// byte is asked for.
    pub async fn look(&self, url: &str) -> Result<Object, Error> {
        let response = self.insist(url, Some("bytes=0-0")).await?;
        let Some(bytes) = size(&response) else {
            return Err(Error::Failed {
                address: url.into(),
                message: "the server does not tell its size".into(),
            });
        };
        Ok(Object {
            url: url.into(),
            bytes,
            version: version(&response),
            sha256: None,
            location: url.into(),
        })
    }

    /// Asks for an object from some byte on.
    pub async fn ask(&self, object: &Object, start: u64) -> Result<Answer, Fault> {
        let range = format!("bytes={start}-");
        let range = (0 < start).then_some(range.as_str());
        let response = self.request(&object.location, range).await?;
        // The hub names a fixed version in the URL, and tells of it by a hash.
        let is_fixed = !self.hub.is_empty();
        Ok(Answer {
            start: if response.status().as_u16() == 206 {
                start
            } else {
                0
            },
            bytes: size(&response).unwrap_or(object.bytes),
            version: match is_fixed {
                true => object.version.clone(),
                false => version(&response),
            },
            body: response
                .into_body()
                .bytes_stream()
                .map(|bytes| bytes.map(Vec::from).map_err(|error| chain(&error)))
                .boxed(),
        })
    }
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The size of the whole object.
fn size(response: &HttpResponse) -> Option<u64> {
    match header(response, "content-range") {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => header(response, "content-length")?.parse().ok(),
    }
}

fn version(response: &HttpResponse) -> Option<String> {
    let told = header(response, "etag").or_else(|| header(response, "last-modified"));
    told.map(String::from)
}

/// The URL that a `Link` header calls `next`.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|link| {
        let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then(|| url.to_string())
    })
}
