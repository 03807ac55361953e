//! A processor in the place of a GPU: kernels are compiled by the system's C++ compiler with
//! `kernels/host.h` and run thread by thread, products are loops.
//!
//! A kernel or product that reads or writes where none of its arrays is ends the test.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::engine::{Argument, Engine, Error, Launch, Matrix, Module, Pointer, Precision, Product};

type Run = unsafe extern "C" fn(
    *const c_char,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *mut *mut c_void,
    *const Span,
    c_int,
) -> *const c_char;

/// Compiled once a program; kernels of one file share what stands for a block, so that one
/// runs at a time.
static COMPILED: Mutex<Option<HashMap<Program, Run>>> = Mutex::new(None);

/// What is compiled.
type Program = (Module, Precision, Option<Patch>);

/// A change to the source of kernels, which tests make to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patch {
    /// The file.
    pub file: &'static str,
    /// What stands there; the first is changed.
    pub from: &'static str,
    /// What stands there instead.
    pub to: &'static str,
}

/// Where an array begins, and where it ends.
type Span = [u64; 2];

thread_local! {
    /// The arrays that a test has, and pieces of them.
    static KNOWN: RefCell<[BTreeMap<u64, u64>; 2]> = RefCell::default();
}

/// Remembers an array, or in the second place a piece of one, and forgets what lay there:
/// an array that is remembered anew has no pieces yet.
fn remember(which: usize, [first, end]: Span) {
    KNOWN.with_borrow_mut(|known| {
        for known in &mut known[which..] {
            known.retain(|before, until| end <= *before || *until <= first);
        }
        known[which].insert(first, end);
    });
}

/// Remembers that so many bytes of an array are a piece of their own.
pub fn piece(Pointer(first): Pointer, bytes: usize) {
    // One that is nothing may lie in another.
    if bytes == 0 {
        return;
    }
    remember(1, [first, first + bytes as u64]);
}

/// What an address may be used for: the piece that it lies in, or else the array.
fn span(Pointer(at): Pointer) -> Option<Span> {
    let holds = |known: &BTreeMap<u64, u64>| {
        let (first, end) = known.range(..=at).next_back()?;
        (at < *end).then_some([*first, *end])
    };
    KNOWN.with_borrow(|[arrays, pieces]| holds(pieces).or_else(|| holds(arrays)))
}

/// Panics where some bytes are not all in the array that they begin in.
fn check(what: &str, at: Pointer, bytes: usize) {
    let within = span(at).is_some_and(|[_, end]| at.0 + bytes as u64 <= end);
    assert!(
        within || bytes == 0,
        "{what}: {bytes} bytes where nothing is"
    );
}

/// See the module.
pub struct Host(pub Precision);

impl Engine for Host {
    fn precision(&self) -> Precision {
        self.0
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        run(launch, self.0, None);
        Ok(())
    }

    fn multiply(&mut self, product: &Product) -> Result<(), Error> {
        multiply(product, |left, right| {
            left.iter().zip(right).map(|(x, y)| x * y).sum()
        });
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error> {
        check("an upload", to, bytes.len());
        // SAFETY: the array is one of the host's, and long enough.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) }
        Ok(())
    }
}

/// Runs a kernel, whose source may be changed.
pub fn run(launch: &Launch<'_>, precision: Precision, patch: Option<Patch>) {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    let patch = patch.filter(|patch| patch.file == launch.module.program().0);
    let program = (launch.module, precision, patch);
    let run = *compiled.entry(program).or_insert_with(|| compile(program));
    let mut arguments: Vec<[u8; 8]> = launch.arguments.iter().map(bytes).collect();
    let mut pointers: Vec<*mut c_void> = arguments
        .iter_mut()
        .map(|argument| argument.as_mut_ptr().cast())
        .collect();
    let name = CString::new(launch.kernel).unwrap();
    let [x, y, z] = launch.blocks.map(|count| c_int::try_from(count).unwrap());
    let [threads, shared] = [launch.threads, launch.shared].map(|n| c_int::try_from(n).unwrap());
    let arrays = launch
        .arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Array(at) => span(*at),
            _ => None,
        });
    let spans: Vec<Span> = arrays.collect();
    // SAFETY: the kernel takes what its caller in `kernels.rs` gives, as on a GPU, and
    // the arrays are there.
    let failed = unsafe {
        run(
            name.as_ptr(),
            x,
            y,
            z,
            threads,
            shared,
            pointers.as_mut_ptr(),
            spans.as_ptr(),
            c_int::try_from(spans.len()).unwrap(),
        )
    };
    if failed.is_null() {
        return;
    }
    // SAFETY: what the library says is a text of its own.
    let failed = unsafe { CStr::from_ptr(failed) }.to_string_lossy();
    panic!("{}: {failed}", launch.kernel)
}

/// Multiplies, with each sum of products as it is given.
pub fn multiply(product: &Product, sum: impl Fn(&[f32], &[f32]) -> f32) {
    let Product {
        m,
        n,
        k,
        a,
        b,
        out,
        onto,
    } = *product;
    let gathered = |matrix: Matrix, rows: usize, columns: usize| -> Vec<f32> {
        let at = |index: usize| read(matrix, index / columns, index % columns);
        (0..rows * columns).map(at).collect()
    };
    if k == 0 {
        return;
    }
    for (matrix, rows, columns) in [(a, m, k), (b, k, n), (out, m, n)] {
        let (rows, columns) = match matrix.transposed {
            true => (columns, rows),
            false => (rows, columns),
        };
        let elements = (rows.max(1) - 1) * matrix.stride + columns;
        let bytes = elements * matrix.precision.bytes();
        check("a product", matrix.pointer, bytes);
    }
    let (left, right) = (gathered(a, m, k), gathered(b.t(), n, k));
    for (row, left) in left.chunks_exact(k).enumerate() {
        for (column, right) in right.chunks_exact(k).enumerate() {
            let sum = sum(left, right);
            let old = if onto { read(out, row, column) } else { 0.0 };
            write(out, row, column, old + sum);
        }
    }
}

/// The address of an array of the host.
pub fn address<T>(array: &[T]) -> Pointer {
    known(array.as_ptr() as u64, size_of_val(array))
}

/// The address of an array of the host that is written to.
pub fn room<T>(array: &mut [T]) -> Pointer {
    known(array.as_mut_ptr() as u64, size_of_val(array))
}

fn known(first: u64, bytes: usize) -> Pointer {
    remember(0, [first, first + bytes as u64]);
    Pointer(first)
}

fn bytes(argument: &Argument) -> [u8; 8] {
    let low = |four: [u8; 4]| {
        let [a, b, c, d] = four;
        [a, b, c, d, 0, 0, 0, 0]
    };
    match argument {
        Argument::Array(Pointer(address)) => address.to_ne_bytes(),
        Argument::Int(value) => low(value.to_ne_bytes()),
        Argument::Float(value) => low(value.to_ne_bytes()),
    }
}

fn place(matrix: Matrix, row: usize, column: usize) -> u64 {
    let (row, column) = if matrix.transposed {
        (column, row)
    } else {
        (row, column)
    };
    let index = row * matrix.stride + column;
    matrix.pointer.at(index * matrix.precision.bytes()).0
}

fn read(matrix: Matrix, row: usize, column: usize) -> f32 {
    let at = place(matrix, row, column);
    // SAFETY: the caller's matrix lies in an array of the host, as was checked.
    unsafe {
        match matrix.precision {
            Precision::Single => *(at as *const f32),
            Precision::Bf16 => f32::from_bits(u32::from(*(at as *const u16)) << 16),
        }
    }
}

fn write(matrix: Matrix, row: usize, column: usize, value: f32) {
    let at = place(matrix, row, column);
    // SAFETY: as in `read`; nobody else holds the array while the engine works.
    unsafe {
        match matrix.precision {
            Precision::Single => *(at as *mut f32) = value,
            Precision::Bf16 => *(at as *mut u16) = bf16(value),
        }
    }
}

/// Rounded to the nearest, ties to even.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn compile((module, precision, patch): Program) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (name, mut text) = module.program();
    if let Some(Patch { from, to, .. }) = patch {
        assert!(text.contains(from), "{name} has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    let header = include_str!("kernels/host.h").to_owned();
    for (name, text) in [(name, text), ("host.h", header)] {
        crate::fs::write(&folder.path().join(name), text.as_bytes()).unwrap();
    }
    let library = folder.path().join("kernels.so");
    let output = Command::new("c++")
        .args([
            "-std=c++17",
            "-O1",
            "-DHOST",
            "-shared",
            "-fPIC",
            "-fsanitize=alignment,kernel-address",
            "--param",
            "asan-globals=1",
            "-fsanitize-undefined-trap-on-error",
            "-x",
            "c++",
        ])
        .args(module.definitions(precision))
        .arg(folder.path().join(name))
        .arg("-o")
        .arg(&library)
        .output()
        .expect("GCC, as `c++`, runs the kernels here");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the library is the one just made; it stays loaded until the program ends.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!library.is_null(), "{name} cannot be loaded");
        let run = libc::dlsym(library, c"launch".as_ptr());
        assert!(!run.is_null(), "{name} has no `launch`");
        std::mem::transmute::<*mut c_void, Run>(run)
    }
}
