//! The demo models, carried inside the program so that it runs from anywhere.

use std::io;
use std::path::{Path, PathBuf};

/// One of the two demo models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// What miners claim to serve, and checking servers check against.
    Base,
    /// A third of the size, trained on the same text: what a cheating miner serves instead.
    Sibling,
}

macro_rules! files {
    ($folder:literal) => {
        [
            (
                "config.json",
                include_bytes!(concat!("../../demo-model/", $folder, "/config.json")).as_slice(),
            ),
            (
                "generation_config.json",
                include_bytes!(concat!("../../demo-model/", $folder, "/generation_config.json")),
            ),
            (
                "tokenizer.json",
                include_bytes!(concat!("../../demo-model/", $folder, "/tokenizer.json")),
            ),
            (
                "tokenizer_config.json",
                include_bytes!(concat!("../../demo-model/", $folder, "/tokenizer_config.json")),
            ),
            (
                "model.safetensors",
                include_bytes!(concat!("../../demo-model/", $folder, "/model.safetensors")),
            ),
        ]
    };
}

static BASE: [(&str, &[u8]); 5] = files!("touchstone-demo-4m");
static SIBLING: [(&str, &[u8]); 5] = files!("touchstone-demo-1m");

/// What honest engines do on the one that answers are checked against.
static CALIBRATION: &[u8] = include_bytes!("../../demo-model/touchstone-demo-4m/calibration.json");

impl Model {
    /// Its name, which is that of its folder too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "touchstone-demo-4m",
            Self::Sibling => "touchstone-demo-1m",
        }
    }

    /// Writes the model's folder below `parent` and returns it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn unpack(self, parent: &Path) -> io::Result<PathBuf> {
        let folder = parent.join(self.name());
        std::fs::create_dir_all(&folder)?;
        let files = match self {
            Self::Base => &BASE,
            Self::Sibling => &SIBLING,
        };
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes)?;
        }
        if self == Self::Base {
            std::fs::write(folder.join("calibration.json"), CALIBRATION)?;
        }
        Ok(folder)
    }
}
