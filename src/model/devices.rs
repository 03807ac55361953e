//! Which devices a name means.

use super::parameters::{Device, Error, cuda_devices};

/// What `--device` says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    /// A GPU where one answers, else the CPU.
    Auto,
    /// So many ranks on the CPU.
    Cpu(usize),
    /// GPUs by their number.
    Cuda(Vec<usize>),
    /// All GPUs.
    AllCuda,
}

/// The devices of a name, one for each rank of a run: `auto`, `cpu`, `cuda`, `cuda:N`, or
/// several, as in `cuda:0,1`, `cuda:all` and `cpu,cpu`.
pub fn devices(name: &str) -> Result<Vec<Device>, Error> {
    let name = name.to_owned();
    let numbers = match parse(&name)? {
        Named::Cpu(ranks) => return Ok(vec![Device::flex(); ranks]),
        Named::Auto => {
            let gpu = cuda_devices(&name)?.into_iter().next();
            return Ok(vec![gpu.unwrap_or_else(Device::flex)]);
        }
        _ if cfg!(not(feature = "cuda")) => return Err(Error::NoCuda { name }),
        Named::Cuda(numbers) => Some(numbers),
        Named::AllCuda => None,
    };
    let all = cuda_devices(&name)?;
    let found = all.len();
    let devices = match numbers {
        None => all,
        Some(numbers) => {
            let device = |number| all.get(number).cloned();
            let devices: Option<_> = numbers.into_iter().map(device).collect();
            devices.unwrap_or_default()
        }
    };
    match devices.len() {
        0 => return Err(Error::NoSuchDevice { name, found }),
        1 => {}
        _ => check_collective(&name)?,
    }
    Ok(devices)
}

/// The device of a name, where one is meant: `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn device(name: &str) -> Result<Device, Error> {
    match parse(name)? {
        Named::Cpu(1) | Named::Auto => {}
        Named::Cuda(numbers) if numbers.len() == 1 => {}
        _ => return Err(Error::Several { name: name.into() }),
    }
    let one = devices(name)?.into_iter().next();
    one.ok_or_else(|| Error::UnknownDevice { name: name.into() })
}

/// What `--device` calls a device.
pub fn name(device: &Device) -> String {
    let gpus = cuda_devices("auto").unwrap_or_default();
    match gpus.iter().position(|gpu| gpu == device) {
        Some(number) => format!("cuda:{number}"),
        None => "cpu".into(),
    }
}

fn parse(name: &str) -> Result<Named, Error> {
    let unknown = || Error::UnknownDevice { name: name.into() };
    match name {
        "auto" => return Ok(Named::Auto),
        "cuda" => return Ok(Named::Cuda(vec![0])),
        "cuda:all" => return Ok(Named::AllCuda),
        _ => {}
    }
    let parts: Vec<&str> = name.split(',').map(str::trim).collect();
    if parts.iter().all(|part| *part == "cpu") {
        return Ok(Named::Cpu(parts.len()));
    }
    let mut numbers: Vec<usize> = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        // Only the first must say what it is.
        let number = match part.strip_prefix("cuda:") {
            Some(number) => number,
            None if 0 < index => part,
            None => return Err(unknown()),
        };
        let number = number.parse().map_err(|_| unknown())?;
        if numbers.contains(&number) {
            return Err(Error::Twice {
                name: name.into(),
                number,
            });
        }
        numbers.push(number);
    }
    Ok(Named::Cuda(numbers))
}

/// Several GPUs need what sums over them.
#[cfg(feature = "cuda")]
fn check_collective(name: &str) -> Result<(), Error> {
    match super::gpu::collective().filter(|need| need.found.is_none()) {
        None => Ok(()),
        Some(need) => Err(need.lacking(name)),
    }
}

#[cfg(not(feature = "cuda"))]
fn check_collective(_: &str) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_devices() {
        let cuda = |numbers: &[usize]| Named::Cuda(numbers.into());
        for (name, expected) in [
            ("auto", Named::Auto),
            ("cpu", Named::Cpu(1)),
            ("cpu,cpu, cpu", Named::Cpu(3)),
            ("cuda", cuda(&[0])),
            ("cuda:3", cuda(&[3])),
            ("cuda:1,0", cuda(&[1, 0])),
            ("cuda:0,cuda:2,5", cuda(&[0, 2, 5])),
            ("cuda:all", Named::AllCuda),
        ] {
            assert_eq!(parse(name).unwrap(), expected, "{name}");
        }
        for wrong in [
            "",
            "gpu",
            "cuda:",
            "cuda:x",
            "0",
            "0,1",
            "cpu,cuda:0",
            "cuda:0,cpu",
            "cuda:0,",
            "auto,cpu",
            "cuda:all,1",
            "cuda:-1",
            "cpu:2",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains(&format!("unknown device `{wrong}`")),
                "{error}"
            );
        }
        assert_eq!(
            parse("cuda:0,1,0").unwrap_err().to_string(),
            "`cuda:0,1,0` names GPU 0 twice: expected one rank on each"
        );
    }

    #[test]
    fn ranks_of_the_cpu_are_as_many_as_are_named() {
        assert_eq!(devices("cpu,cpu").unwrap().len(), 2);
        assert_eq!(devices("cpu").unwrap().len(), 1);
        let error = device("cpu,cpu").unwrap_err().to_string();
        assert!(error.contains("expected one device"), "{error}");
        device("cpu").unwrap();
    }
}
