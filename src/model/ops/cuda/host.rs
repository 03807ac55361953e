//! A processor in the place of a GPU: kernels are compiled by the system's C++ compiler with
//! `kernels/host.h` and run thread by thread, products are loops.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
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
) -> c_int;

/// Compiled once a program; kernels of one file share what stands for a block, so that one
/// runs at a time.
static COMPILED: Mutex<Option<HashMap<(Module, Precision), Run>>> = Mutex::new(None);

/// See the module.
pub struct Host(pub Precision);

impl Engine for Host {
    fn precision(&self) -> Precision {
        self.0
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = compiled.get_or_insert_default();
        let run = *compiled
            .entry((launch.module, self.0))
            .or_insert_with(|| compile(launch.module, self.0));
        let mut arguments: Vec<[u8; 8]> = launch.arguments.iter().map(bytes).collect();
        let mut pointers: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|argument| argument.as_mut_ptr().cast())
            .collect();
        let name = CString::new(launch.kernel).unwrap();
        let [x, y, z] = launch.blocks.map(|count| c_int::try_from(count).unwrap());
        let [threads, shared] =
            [launch.threads, launch.shared].map(|n| c_int::try_from(n).unwrap());
        // SAFETY: the kernel takes what its caller in `kernels.rs` gives, as on a GPU, and
        // the arrays are as long as the caller says.
        let failed = unsafe {
            run(
                name.as_ptr(),
                x,
                y,
                z,
                threads,
                shared,
                pointers.as_mut_ptr(),
            )
        };
        assert_eq!(failed, 0, "no kernel `{}`", launch.kernel);
        Ok(())
    }

    fn multiply(&mut self, product: &Product) -> Result<(), Error> {
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
            return Ok(());
        }
        let (left, right) = (gathered(a, m, k), gathered(b.t(), n, k));
        for (row, left) in left.chunks_exact(k).enumerate() {
            for (column, right) in right.chunks_exact(k).enumerate() {
                let sum: f32 = left.iter().zip(right).map(|(x, y)| x * y).sum();
                let old = if onto { read(out, row, column) } else { 0.0 };
                write(out, row, column, old + sum);
            }
        }
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error> {
        // SAFETY: the array is one of the host's, as long as the caller says.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) }
        Ok(())
    }
}

/// The address of an array of the host.
pub fn address<T>(array: &[T]) -> Pointer {
    Pointer(array.as_ptr() as u64)
}

/// The address of an array of the host that is written to.
pub fn room<T>(array: &mut [T]) -> Pointer {
    Pointer(array.as_mut_ptr() as u64)
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
    // SAFETY: the caller's matrix lies in an array of the host that is long enough.
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

fn compile(module: Module, precision: Precision) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (name, text) = module.program();
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
            "-fsanitize=alignment",
            "-fsanitize-undefined-trap-on-error",
            "-x",
            "c++",
        ])
        .args(module.definitions(precision))
        .arg(folder.path().join(name))
        .arg("-o")
        .arg(&library)
        .output()
        .expect("a C++ compiler, as `c++`, runs the kernels here");
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
