//! NumPy's array files: a header that says type and shape, then the values.

use std::fmt::Display;

/// What begins every file.
const MAGIC: &[u8] = b"\x93NUMPY";

/// An array that was read: its shape, and its bytes as they are in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    /// How long each axis is; the last one varies fastest.
    pub shape: Vec<usize>,
    kind: Kind,
    bytes: &'a [u8],
}

/// What an array is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `<f4`
    F32,
    /// `<f8`
    F64,
    /// `|u1`
    U8,
    /// `<u2`
    U16,
    /// `<u4`
    U32,
    /// `<i4`
    I32,
    /// `<i8`
    I64,
}

/// Bytes that are no array that we can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is none of NumPy's, or ends too early.
    #[error("expected {expected} in a NumPy array file, found {found}")]
    Malformed {
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The type is none of [`Kind`].
    #[error("expected an array of <f4, <f8, |u1, <u2, <u4, <i4 or <i8 in C order, found {found}")]
    Kind {
        /// The header.
        found: String,
    },
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::F32,
        Self::F64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::I32,
        Self::I64,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "<f4",
            Self::F64 => "<f8",
            Self::U8 => "|u1",
            Self::U16 => "<u2",
            Self::U32 => "<u4",
            Self::I32 => "<i4",
            Self::I64 => "<i8",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

/// Appends the header of version 1.0, which fills a multiple of 64 bytes.
pub fn header(kind: Kind, shape: &[usize], out: &mut Vec<u8>) {
    let axes = shape.iter().map(|axis| format!("{axis}, "));
    let axes: String = axes.collect();
    // A tuple of one needs its comma, one of several needs none at its end.
    let axes = match shape {
        [one] => format!("{one},"),
        _ => axes.trim_end_matches(", ").to_owned(),
    };
    let kind = kind.name();
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({axes}), }}");
    const BEFORE: usize = 10;
    let size = (BEFORE + text.len() + 1).next_multiple_of(64) - BEFORE;
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    // A few numbers make it some hundred at most.
    out.extend_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(format!("{text:<0$}\n", size - 1).as_bytes());
}

/// An array of single-precision floats as a file.
pub fn floats(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    header(Kind::F32, shape, &mut out);
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    out
}

/// An array of double-precision floats as a file.
pub fn doubles(values: &[f64]) -> Vec<u8> {
    let mut out = Vec::new();
    header(Kind::F64, &[values.len()], &mut out);
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    out
}

impl<'a> Array<'a> {
    /// Finds the array in the bytes of a file.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let rest = file.strip_prefix(MAGIC);
        let (version, rest) = rest
            .and_then(|rest| rest.split_at_checked(2))
            .ok_or_else(|| malformed("its first six bytes and a version", "other bytes"))?;
        let wide = version != [1, 0];
        let (size, rest) = rest
            .split_at_checked(if wide { 4 } else { 2 })
            .ok_or_else(|| malformed("the size of the header", "the end"))?;
        let size = size
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let (header, bytes) = rest
            .split_at_checked(size)
            .ok_or_else(|| malformed("a whole header", "the end"))?;
        let header = String::from_utf8_lossy(header);
        let unknown = || Error::Kind {
            found: header.trim().to_owned(),
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| header.contains(&format!("'descr': '{}'", kind.name())))
            .filter(|_| header.contains("'fortran_order': False"))
            .ok_or_else(unknown)?;
        let (_, axes) = header.split_once("'shape': (").ok_or_else(unknown)?;
        let (axes, _) = axes.split_once(')').ok_or_else(unknown)?;
        let axes = axes
            .split(',')
            .map(str::trim)
            .filter(|axis| !axis.is_empty());
        let shape: Vec<usize> = axes
            .map(|axis| axis.parse().map_err(|_| unknown()))
            .collect::<Result<_, _>>()?;
        Self::new(shape, kind, bytes)
    }

    /// An array of given bytes, little-endian.
    pub fn new(shape: Vec<usize>, kind: Kind, bytes: &'a [u8]) -> Result<Self, Error> {
        let size = shape
            .iter()
            .try_fold(kind.size(), |size, axis| size.checked_mul(*axis));
        if size != Some(bytes.len()) {
            let found = format!("{} bytes for the shape {shape:?}", bytes.len());
            return Err(malformed("as many values as the shape says", found));
        }
        Ok(Self { shape, kind, bytes })
    }

    /// The values in order; whole numbers above 2^53 are rounded.
    pub fn values(&self) -> impl Iterator<Item = f64> + use<'a> {
        let kind = self.kind;
        let chunks = self.bytes.chunks_exact(kind.size());
        chunks.map(move |bytes| match (kind, bytes) {
            (Kind::U8, &[a]) => f64::from(a),
            (Kind::U16, &[a, b]) => f64::from(u16::from_le_bytes([a, b])),
            (Kind::U32, &[a, b, c, d]) => f64::from(u32::from_le_bytes([a, b, c, d])),
            (Kind::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (Kind::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (Kind::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            (Kind::I64, &[a, b, c, d, e, f, g, h]) => {
                i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f64
            }
            // Chunks have the size of their kind.
            _ => f64::NAN,
        })
    }

    /// The values in order, in single precision.
    pub fn singles(&self) -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "what the caller wants")]
        let singles = self.values().map(|value| value as f32);
        singles.collect()
    }
}

fn malformed(expected: &'static str, found: impl Display) -> Error {
    let found = found.to_string();
    Error::Malformed { expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let values: Vec<f32> = (0..6).map(|i| i as f32 * 0.3).collect();
        for shape in [vec![6], vec![2, 3], vec![1, 3, 2]] {
            let file = floats(&shape, &values);
            let array = Array::parse(&file).unwrap();
            assert_eq!(
                (array.shape.clone(), array.singles()),
                (shape, values.clone())
            );
        }
        let file = doubles(&[0.1, -2.0]);
        assert_eq!(
            Array::parse(&file).unwrap().values().collect::<Vec<_>>(),
            [0.1, -2.0]
        );
        let file = floats(&[], &[7.0]);
        assert_eq!(Array::parse(&file).unwrap().singles(), [7.0]);
    }

    /// As NumPy 2 writes `numpy.array([[1, -100]])`.
    #[test]
    fn whole_numbers_are_read() {
        let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }";
        file.extend_from_slice(format!("{header:<117}\n").as_bytes());
        file.extend([1i64, -100].iter().flat_map(|value| value.to_le_bytes()));
        let array = Array::parse(&file).unwrap();
        assert_eq!(array.shape, [1, 2]);
        assert_eq!(array.values().collect::<Vec<_>>(), [1.0, -100.0]);
    }

    #[test]
    fn what_is_no_array_is_named() {
        let whole = floats(&[2, 3], &[0.0; 6]);
        for end in [0, 5, 7, 9, 50, whole.len() - 1] {
            let error = Array::parse(&whole[..end]).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{end}: {error}");
        }
        let strange = String::from_utf8_lossy(&whole).replace("<f4", "<c8");
        assert!(Array::parse(strange.as_bytes()).is_err());
        let mut fortran = whole.clone();
        let at = whole
            .windows(5)
            .position(|bytes| bytes == b"False")
            .unwrap();
        fortran[at..at + 5].copy_from_slice(b"True ");
        let error = Array::parse(&fortran).unwrap_err().to_string();
        assert!(error.starts_with("expected an array of <f4"), "{error}");
        let huge = Array::new(vec![usize::MAX, 2], Kind::F64, &[]).unwrap_err();
        assert!(huge.to_string().contains("as many values"));
    }
}
