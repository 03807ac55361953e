//! `pausedata doctor`: what this machine and this build can do.

use std::path::{Path, PathBuf};
use std::process::Command;

use pausedata::fs;
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use super::ui::{Format, NAME, Ui};

/// Show what this build and this machine offer
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata doctor
  pausedata doctor /mnt/big --json    (free space of that folder)")]
pub struct Args {
    /// The folder whose free space is shown
    #[arg(default_value = ".", value_name = "DIR")]
    pub folder: PathBuf,
}

/// The variable that says where real data lies.
const SHARED_DATA: &str = "PAUSEDATA_SHARED_DATA";

/// What is known; what cannot be found out is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    system: String,
    processor: Option<String>,
    simd: Vec<&'static str>,
    threads: Option<usize>,
    memory_bytes: Option<u64>,
    memory_free_bytes: Option<u64>,
    folder: PathBuf,
    folder_free_bytes: Option<u64>,
    devices: Vec<String>,
    /// What a GPU needs, in a build with the feature `cuda`.
    #[cfg(feature = "cuda")]
    gpu: &'static [pausedata::model::gpu::Need],
    shared_data: SharedData,
}

/// Where real data lies.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum SharedData {
    /// The variable is not set.
    Unset,
    /// It names no folder, or an empty one.
    Missing { path: PathBuf },
    /// It names a folder.
    Found { path: PathBuf, entries: usize },
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let report = examine(&args.folder)?;
    match ui.format() {
        Format::Json => ui.print_json(&report)?,
        Format::Text => ui.print(&text(&report))?,
    }
    Ok(Outcome::Done)
}

fn examine(folder: &Path) -> Result<Report, Failure> {
    // A folder that is not there has no free space: that is an error, not a blank.
    fs::size(folder)?;
    let memory = |key| read("/proc/meminfo").and_then(|text| kilobytes(&text, key));
    let shared_data = match std::env::var_os(SHARED_DATA).map(PathBuf::from) {
        None => SharedData::Unset,
        Some(path) => match fs::list(&path).map(|entries| entries.len()) {
            Ok(entries) if 0 < entries => SharedData::Found { path, entries },
            _ => SharedData::Missing { path },
        },
    };
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        features: features(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: processor(),
        simd: simd(),
        threads: std::thread::available_parallelism().map(usize::from).ok(),
        memory_bytes: memory("MemTotal").or_else(|| sysctl("hw.memsize")?.parse().ok()),
        memory_free_bytes: memory("MemAvailable"),
        folder: folder.to_path_buf(),
        folder_free_bytes: free_space(folder),
        devices: devices(),
        #[cfg(feature = "cuda")]
        gpu: pausedata::model::gpu::needs(),
        shared_data,
    })
}

fn text(report: &Report) -> String {
    let unknown = || "unknown".to_string();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, gibibytes);
    let list = |items: &[&str]| match items {
        [] => "none".to_string(),
        _ => items.join(", "),
    };
    let devices = match report.devices.as_slice() {
        [] => "none: this build lacks training (feature `train`)".to_string(),
        devices => devices.join(", "),
    };
    let shared_data = match &report.shared_data {
        SharedData::Unset => {
            format!("{SHARED_DATA} is not set: recipes on real text need --data-root")
        }
        SharedData::Missing { path } => format!("{} is missing or empty", path.display()),
        SharedData::Found { path, entries } => format!("{} ({entries} entries)", path.display()),
    };
    let free = format!(
        "{} free at {}",
        size(report.folder_free_bytes),
        report.folder.display()
    );
    let memory = format!(
        "{}, {} free",
        size(report.memory_bytes),
        size(report.memory_free_bytes)
    );
    let lines = vec![
        ("pausedata", report.version.to_string()),
        ("features", list(&report.features)),
        ("system", report.system.clone()),
        (
            "processor",
            report.processor.clone().unwrap_or_else(unknown),
        ),
        ("SIMD", list(&report.simd)),
        (
            "threads",
            report
                .threads
                .map_or_else(unknown, |threads| threads.to_string()),
        ),
        ("memory", memory),
        ("disk", free),
        ("devices", devices),
        ("shared data", shared_data),
    ];
    #[cfg(feature = "cuda")]
    let lines = [
        lines,
        report
            .gpu
            .iter()
            .map(|need| (need.name, found(need)))
            .collect(),
    ]
    .concat();
    let line = |(name, value)| format!("{NAME}{name:<14}{NAME:#} {value}\n");
    lines.into_iter().map(line).collect()
}

/// Where something that a GPU needs is, or where it was looked for and what to do.
#[cfg(feature = "cuda")]
fn found(need: &pausedata::model::gpu::Need) -> String {
    let indent = " ".repeat(15);
    match &need.found {
        Some(path) => path.clone(),
        None => format!(
            "missing: {}\n{indent}looked for {}",
            need.hint,
            need.looked.join(&format!(",\n{indent}"))
        ),
    }
}

fn features() -> Vec<&'static str> {
    let features = [
        ("train", cfg!(feature = "train")),
        ("cloud", cfg!(feature = "cloud")),
        ("cuda", cfg!(feature = "cuda")),
    ];
    features
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect()
}

fn simd() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect()
}

fn devices() -> Vec<String> {
    let mut devices = Vec::new();
    if cfg!(feature = "train") {
        devices.push("cpu".to_string());
    }
    if cfg!(feature = "cuda") {
        let query = [
            "--query-gpu=index,name,memory.total",
            "--format=csv,noheader",
        ];
        let gpus = output("nvidia-smi", &query).unwrap_or_default();
        devices.extend(gpus.lines().map(|line| format!("cuda:{line}")));
    }
    devices
}

fn processor() -> Option<String> {
    let model = |text: String| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    read("/proc/cpuinfo")
        .and_then(model)
        .or_else(|| sysctl("machdep.cpu.brand_string"))
}

/// A number of bytes from a line of /proc/meminfo.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let number: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    number.checked_mul(1024)
}

/// The free bytes of a folder's disk, as POSIX's `df` tells them: the standard
/// library does not, and a call to the system would be `unsafe`.
fn free_space(folder: &Path) -> Option<u64> {
    let text = output("df", &["-Pk", folder.to_str()?])?;
    let available = text.lines().nth(1)?.split_whitespace().rev().nth(2)?;
    available.parse::<u64>().ok()?.checked_mul(1024)
}

fn sysctl(name: &str) -> Option<String> {
    output("sysctl", &["-n", name])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

fn read(path: &str) -> Option<String> {
    fs::read_text(Path::new(path)).ok()
}

fn gibibytes(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_table_is_read() {
        let text = "MemTotal:  16 kB\nMemFree: 3 kB\nMemAvailable:    5 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable"), Some(5120));
        assert_eq!(kilobytes(text, "SwapTotal"), None);
        assert_eq!(gibibytes(3 << 29), "1.5 GiB");
    }

    #[test]
    fn the_report_knows_the_folder_and_refuses_a_missing_one() {
        let report = examine(Path::new(".")).unwrap();
        assert!(text(&report).contains("free at ."));
        examine(Path::new("/nonexistent/folder")).unwrap_err();
    }
}
