//! The arguments of every command that takes a recipe.

use std::path::PathBuf;

use pausedata::recipe::Plan;
use pausedata::remote::{Access, Network};

use super::failure::Failure;

/// Which recipe, and where it runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Recipe {
    /// The recipe: a TOML file such as those in pipelines/
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Folder for everything the run makes; runs/<recipe name> where absent
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder where relative source paths start; the current one where absent
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    #[command(flatten)]
    pub remote: Remote,
    /// Change one key of the recipe, as in finetune.pause.count=50; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// How sources that are URLs are reached.
#[derive(Clone, Debug, clap::Args)]
pub struct Remote {
    /// Folder for copies of sources that are URLs; pausedata/sources in the user's cache
    /// folder where absent
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Fetch nothing: sources that are URLs must have been copied by an earlier run
    #[arg(long)]
    pub offline: bool,
}

impl Remote {
    /// The library's word for it.
    pub fn access(&self) -> Access {
        Access {
            cache: self.cache_dir.clone().or_else(default_cache),
            network: match self.offline {
                true => Network::Offline,
                false => Network::Online,
            },
            ..Access::default()
        }
    }
}

/// The folder of copies where nobody says another.
fn default_cache() -> Option<PathBuf> {
    let folder = |name| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let home = || {
        let caches = match cfg!(target_os = "macos") {
            true => "Library/Caches",
            false => ".cache",
        };
        Some(folder("HOME")?.join(caches))
    };
    let cache = folder("XDG_CACHE_HOME").or_else(home)?;
    Some(cache.join("pausedata").join("sources"))
}

impl Recipe {
    /// Reads the recipe and settles where it runs.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let (out, data_root) = (self.out.clone(), self.data_root.clone());
        let mut plan = Plan::read(&self.recipe, &self.overrides, out, data_root)?;
        plan.access = self.remote.access();
        Ok(plan)
    }
}
