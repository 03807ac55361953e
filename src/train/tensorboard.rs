//! The metrics as a TensorBoard event file.
//!
//! The file is a function of `metrics.jsonl`: it is written anew when a run goes on, and
//! grows with it. Times are the seconds of training so far, so that a run that was
//! interrupted has one curve.
//!
//! A record is its length as u64, a checksum of that, the bytes, and a checksum of those;
//! the bytes are a protocol buffer, `Event` of `tensorflow/core/util/event.proto`.

use std::path::{Path, PathBuf};

use super::Error;
use super::record::{self, Line};
use crate::fs;

/// The folder in a training folder; TensorBoard knows its files by their name.
const FILE: &str = "tensorboard/events.out.tfevents.0.pausedata";

/// The event file of a run.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    seconds: f64,
}

impl Events {
    /// Writes the lines of a run that is about to begin or go on.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let mut events = Self {
            path: folder.join(FILE),
            seconds: 0.0,
        };
        let mut bytes = framed(&event(0.0, 0, &Content::Version));
        let lines = match record::read(folder) {
            Err(record::Error::File(error)) if error.is_missing() => Vec::new(),
            other => other?,
        };
        for line in &lines {
            bytes.extend(events.records(line));
        }
        fs::write(&events.path, &bytes)?;
        Ok(events)
    }

    /// Appends a line.
    pub fn append(&mut self, line: &Line) -> Result<(), Error> {
        let bytes = self.records(line);
        Ok(fs::append(&self.path, &bytes)?)
    }

    fn records(&mut self, line: &Line) -> Vec<u8> {
        let scalars = match line {
            Line::Train(line) => {
                self.seconds += (line.step_ms + line.data_wait_ms) / 1e3;
                vec![
                    ("train/loss", line.loss),
                    ("train/lr", line.lr),
                    ("train/grad_norm", line.grad_norm),
                    ("train/tokens_per_s", line.tokens_per_s),
                ]
            }
            Line::Validation(line) => vec![("validation/loss", line.loss)],
            Line::Anomaly(_) => return Vec::new(),
        };
        framed(&event(
            self.seconds,
            line.step(),
            &Content::Scalars(scalars),
        ))
    }
}

/// What an event tells.
enum Content {
    /// The version of the format, which is the first.
    Version,
    /// Names and values.
    Scalars(Vec<(&'static str, f64)>),
}

/// An `Event`.
fn event(seconds: f64, step: u64, content: &Content) -> Vec<u8> {
    let mut bytes = vec![0x09];
    bytes.extend(seconds.to_le_bytes());
    bytes.push(0x10);
    varint(&mut bytes, step);
    match content {
        Content::Version => field(&mut bytes, 0x1a, b"brain.Event:2"),
        Content::Scalars(scalars) => {
            let mut summary = Vec::new();
            for (name, value) in scalars {
                let mut scalar = Vec::new();
                field(&mut scalar, 0x0a, name.as_bytes());
                scalar.push(0x15);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the format has single precision"
                )]
                scalar.extend((*value as f32).to_le_bytes());
                field(&mut summary, 0x0a, &scalar);
            }
            field(&mut bytes, 0x2a, &summary);
        }
    }
    bytes
}

/// A field of bytes: its tag, their length, and they.
fn field(to: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    to.push(tag);
    varint(to, bytes.len() as u64);
    to.extend(bytes);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        match value {
            0 => return to.push(low & 0x7f),
            _ => to.push(low | 0x80),
        }
    }
}

/// A record of the file.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked(bytes).to_le_bytes());
    record
}

/// The checksum of a record: CRC-32C, turned and moved, so that a record that holds
/// records has another.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a step has some hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::record::Log;

    /// Test vectors of RFC 3720, B.4, and of the algorithm's catalogue.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn an_event_is_the_protocol_buffer() {
        let version = event(0.0, 0, &Content::Version);
        assert_eq!(version[..11], [9, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0]);
        assert_eq!(version[11..], *b"\x1a\x0dbrain.Event:2");
        let scalar = event(1.0, 300, &Content::Scalars(vec![("a/b", 0.5)]));
        let expected =
            b"\x09\0\0\0\0\0\0\xf0\x3f\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03a/b\x15\0\0\0\x3f";
        assert_eq!(scalar, *expected);
    }

    /// A file that grew is the file that is written anew from its metrics.
    #[test]
    fn the_file_is_a_function_of_the_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path(), 0).unwrap();
        let mut events = Events::open(folder.path()).unwrap();
        for step in 1..4u64 {
            let line = Line::Validation(record::Validation {
                step,
                loss: 1.5,
                rows: 1,
                scored: 1,
            });
            log.append(&line).unwrap();
            events.append(&line).unwrap();
        }
        let grown = fs::read(&folder.path().join(FILE)).unwrap();
        Events::open(folder.path()).unwrap();
        assert!(fs::read(&folder.path().join(FILE)).unwrap() == grown);
    }
}
