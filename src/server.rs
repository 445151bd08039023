//! The server: desired state in, journals and answers out.
pub mod decide;
pub mod fact;
pub mod host_content;
pub mod host_state;
pub mod messages;
