//! The devices a pipeline runs on, chosen at run time among those built in.

use std::fmt;
#[cfg(feature = "wgpu")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

pub use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// burn's pure-Rust CPU backend.
    #[default]
    Flex,
    /// burn's older CPU backend, on the `ndarray` crate.
    Ndarray,
    /// A GPU through Vulkan.
    Wgpu,
}

/// Which device a package is to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This one.
    Fixed(DeviceKind),
    /// The fastest of those that are built in and give the package's golden answers.
    Auto,
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::Fixed(DeviceKind::default())
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        if name == AUTO { Ok(Self::Auto) } else { name.parse().map(Self::Fixed) }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(kind) => kind.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

/// The name of the choice that is left to the agent.
const AUTO: &str = "auto";

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No device has this name.
    #[error("{0:?} is no device; there are flex, ndarray and wgpu")]
    Unknown(String),
    /// This program was built without it.
    #[error("this program was built without the device {0}; build it with `--features {0}`")]
    NotBuiltIn(DeviceKind),
    /// It is built in, and this machine has none.
    #[error(
        "this machine has no adapter for the device {0}: no driver says that it has one, or this user may not open it (/dev/dri)"
    )]
    Absent(DeviceKind),
    /// It is there, and broke off as it was opened.
    #[error("the device {0} is there, and its driver broke off as it was opened")]
    Broken(DeviceKind),
}

impl DeviceKind {
    /// Every kind, built in or not.
    pub const ALL: [Self; 3] = [Self::Flex, Self::Ndarray, Self::Wgpu];

    /// Whether this program was built with it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Flex => true,
            Self::Ndarray => cfg!(feature = "ndarray"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// Proves that this program was built with it.
    ///
    /// # Errors
    /// If it was not.
    pub fn check_built_in(self) -> Result<(), DeviceError> {
        if self.is_built_in() { Ok(()) } else { Err(DeviceError::NotBuiltIn(self)) }
    }

    /// The device.
    ///
    /// # Errors
    /// If this program was built without it, or the machine has none.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            #[expect(deprecated, reason = "burn prefers flex; users who have measured otherwise may choose")]
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(not(feature = "ndarray"))]
            Self::Ndarray => Err(DeviceError::NotBuiltIn(self)),
            // Where there is none, burn would panic at its first use.
            #[cfg(feature = "wgpu")]
            Self::Wgpu if Device::enumerate(burn::tensor::DeviceType::Wgpu).is_empty() => {
                Err(DeviceError::Absent(self))
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu => Err(DeviceError::NotBuiltIn(self)),
        }
    }

    /// What a GPU calls itself; nothing for what has no name. It is opened for that, which takes a while.
    ///
    /// # Errors
    /// If it cannot be opened.
    #[cfg(feature = "wgpu")]
    pub fn adapter(self) -> Result<Option<String>, DeviceError> {
        let device = self.open()?;
        let name = catch_unwind(AssertUnwindSafe(|| device.identity().map(|identity| identity.name)));
        name.map_err(|_| DeviceError::Broken(self))
    }

    /// What a GPU calls itself; nothing for what has no name.
    ///
    /// # Errors
    /// If this program was built without it.
    #[cfg(not(feature = "wgpu"))]
    pub fn adapter(self) -> Result<Option<String>, DeviceError> {
        self.check_built_in().map(|()| None)
    }
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
        })
    }
}
