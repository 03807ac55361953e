//! Panics of libraries as errors: some stop on files that are damaged or made to harm.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is passed on of a library's failure.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Calls a library; its panic is an error with the panic's message.
///
/// What the call changed must not be used after that.
pub fn caught<T, E: Into<BoxError>>(call: impl FnOnce() -> Result<T, E>) -> Result<T, BoxError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => Err(format!("it stopped with `{}`", message(panic.as_ref())).into()),
    }
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let said = |call: fn() -> Result<(), String>| caught(call).unwrap_err().to_string();
        let (two, three) = (2, 3);
        assert_eq!(said(|| Err("no".into())), "no");
        assert_eq!(said(|| panic!("two")), "it stopped with `two`");
        let formatted = caught::<(), String>(|| panic!("{two} is not {three}"));
        let said = formatted.unwrap_err().to_string();
        assert_eq!(said, "it stopped with `2 is not 3`");
        let odd = caught::<(), String>(|| std::panic::panic_any(7u8));
        assert_eq!(odd.unwrap_err().to_string(), "it stopped with `no message`");
    }
}
