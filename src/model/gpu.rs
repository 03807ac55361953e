//! What a CUDA GPU needs of this machine, where it was looked for, and what is missing.
//!
//! Nothing of CUDA is linked: the driver comes with the GPU, and compiler, headers and
//! matrix library are loaded when a GPU is used, from the toolkit or from the wheels that
//! `scripts/cuda-runtime.sh` fetches.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Serialize;

/// The folder of a CUDA toolkit, or what stands in for one.
const VARIABLE: &str = "CUDA_PATH";
/// Where toolkits lie otherwise.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda", "/opt/cuda", "/usr"];

/// The library by which several GPUs sum, as it is called everywhere.
const COLLECTIVE: &str = "NCCL";

/// One thing that a GPU needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// What it is.
    pub name: &'static str,
    /// Where it was found; nothing where it is missing.
    pub found: Option<String>,
    /// Where it was looked for.
    pub looked: Vec<String>,
    /// What to do where it is missing.
    pub hint: &'static str,
}

#[cfg(all(feature = "train", feature = "cuda"))]
impl Need {
    /// That a device which was asked for lacks this.
    pub fn lacking(&self, name: &str) -> super::Error {
        super::Error::Incomplete {
            name: name.into(),
            what: self.name,
            looked: self.looked.clone(),
            hint: self.hint,
        }
    }
}

/// What was found on this machine, looked for once. Libraries stay loaded.
pub fn needs() -> &'static [Need] {
    static NEEDS: OnceLock<Vec<Need>> = OnceLock::new();
    NEEDS.get_or_init(|| look(&folders()))
}

/// What is missing, driver first; what several GPUs alone need does not count.
pub fn missing() -> impl Iterator<Item = &'static Need> {
    let needs = needs().iter().filter(|need| need.name != COLLECTIVE);
    needs.filter(|need| need.found.is_none())
}

/// What several GPUs need to sum over all of them.
pub fn collective() -> Option<&'static Need> {
    needs().iter().find(|need| need.name == COLLECTIVE)
}

/// Whether the driver answers: without it there is no GPU to speak of.
pub fn has_driver() -> bool {
    needs().first().is_some_and(|need| need.found.is_some())
}

/// The folders that may be a toolkit.
fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named
        .into_iter()
        .chain(TOOLKITS.map(PathBuf::from))
        .collect()
}

fn look(folders: &[PathBuf]) -> Vec<Need> {
    const RUNTIME: &str = "run `scripts/cuda-runtime.sh DIR` and set CUDA_PATH to what it says, or install the CUDA toolkit";
    let library = |names: &[&str]| library(names, folders);
    // The compiler opens its built-in functions by name alone: they must be there already.
    library(&["libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.12.9"]);
    let need = |name, (found, looked): (Option<String>, Vec<String>), hint| Need {
        name,
        found,
        looked,
        hint,
    };
    vec![
        need(
            "driver",
            library(&["libcuda.so.1"]),
            "install the NVIDIA driver; in a container, pass the GPU through",
        ),
        need(
            "compiler",
            library(&["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]),
            RUNTIME,
        ),
        need("headers", headers(folders), RUNTIME),
        need(
            "matrix library",
            library(&["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]),
            RUNTIME,
        ),
        // CubeCL opens it by this name alone, which the library does not call itself: a folder
        // that the system does not search is of no use.
        need(
            COLLECTIVE,
            self::library(&["libnccl.so"], &[]),
            "only several GPUs need it: run `scripts/cuda-runtime.sh DIR --nccl` and set LD_LIBRARY_PATH to what it says, or install NCCL (Debian: libnccl-dev)",
        ),
    ]
}

/// Loads the first library that is there, by name and then from the folders.
fn library(names: &[&str], folders: &[PathBuf]) -> (Option<String>, Vec<String>) {
    let inside =
        |folder: &PathBuf, name: &str| ["lib64", "lib"].map(|part| folder.join(part).join(name));
    let by_name = names.iter().map(|name| PathBuf::from(*name));
    let in_folders = folders
        .iter()
        .flat_map(|folder| names.iter().flat_map(move |name| inside(folder, name)));
    let mut looked = Vec::new();
    for path in by_name.chain(in_folders) {
        if load(&path) {
            return (Some(path.display().to_string()), looked);
        }
        looked.push(path.display().to_string());
    }
    (None, looked)
}

/// Whether a library could be loaded; it stays so, where others find it by its name.
fn load(path: &Path) -> bool {
    if path.parent().is_some_and(|folder| folder != Path::new("")) && !path.exists() {
        return false;
    }
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: NVIDIA's libraries may be loaded at any time; nothing else has these names.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !library.is_null()
}

/// The folder of headers that kernels include, inside the first toolkit that has one: where
/// burn's own kernels are compiled from.
fn headers(folders: &[PathBuf]) -> (Option<String>, Vec<String>) {
    let mut looked = Vec::new();
    for folder in folders {
        let path = folder.join("include/cuda_runtime.h");
        if path.is_file() {
            return (Some(path.display().to_string()), looked);
        }
        looked.push(path.display().to_string());
    }
    (None, looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_where_it_was_looked_for() {
        let empty = tempfile::tempdir().unwrap();
        let folders = [empty.path().to_path_buf()];
        let needs = look(&folders);
        let names: Vec<_> = needs.iter().map(|need| need.name).collect();
        assert_eq!(
            names,
            ["driver", "compiler", "headers", "matrix library", "NCCL"]
        );
        let headers = &needs[2];
        assert_eq!(headers.found, None);
        let expected = empty.path().join("include/cuda_runtime.h");
        assert_eq!(headers.looked, [expected.display().to_string()]);
    }

    #[test]
    fn a_toolkit_is_found_where_it_is_named() {
        let toolkit = tempfile::tempdir().unwrap();
        let include = toolkit.path().join("include");
        std::fs::create_dir(&include).unwrap();
        crate::fs::write(&include.join("cuda_runtime.h"), b"").unwrap();
        // A file that is no library is not taken for one.
        std::fs::create_dir(toolkit.path().join("lib")).unwrap();
        let library_path = toolkit.path().join("lib/libnvrtc.so.13");
        crate::fs::write(&library_path, b"no library").unwrap();
        let folders = [toolkit.path().to_path_buf()];
        let (found, looked) = headers(&folders);
        assert!(found.is_some() && looked.is_empty());
        let (_, looked) = library(&["libpausedata-none.so", "libnvrtc.so.13"], &folders);
        assert!(
            looked
                .iter()
                .any(|path| path.ends_with("lib/libpausedata-none.so"))
        );
    }
}
