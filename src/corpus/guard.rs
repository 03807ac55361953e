//! Libraries that panic on damaged files are errors of those files.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a library; its panic is an error.
///
/// What the call changed must not be used after that.
pub fn guarded<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<T, Box<dyn Error + Send + Sync>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("the reader stopped with `{message}`").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let error = guarded::<(), String>(|| panic!("two is not three")).unwrap_err();
        let expected = "the reader stopped with `two is not three`";
        assert_eq!(error.to_string(), expected);
        let error = guarded::<(), String>(|| Err("no".into())).unwrap_err();
        assert_eq!(error.to_string(), "no");
    }
}
