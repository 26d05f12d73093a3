//! The protocols that token routes speak.

/// The protocol that a token route speaks (`docs/protocol.md`, "Endpoints").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The instance metadata service.
    Imds,
    /// The VM extension of 2017.
    VmExtension,
    /// App Service, 2019-08-01.
    AppService,
}
