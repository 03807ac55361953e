//! The JSON Schema of a recipe, for editors and for other programs.

use super::{Error, Recipe};

/// The schema as `schemas/recipe.schema.json` holds it.
pub fn text() -> Result<String, Error> {
    let schema = schemars::schema_for!(Recipe);
    let mut text = serde_json::to_string_pretty(&schema).map_err(Error::unwritable)?;
    text.push('\n');
    Ok(text)
}
