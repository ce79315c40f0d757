//! Doorward inside Envoy, as a dynamic module.

use super::super::Found;
use super::super::model::{Manager, Model};

pub(super) fn module_closed(model: &Model<'_>, found: &mut Found) {
    for module in model.managers.iter().flat_map(Manager::modules) {
        if !module.is_elsewhere && !module.config.is("dynamic_module_config.do_not_close") {
            let place = module.config.get("dynamic_module_config").unwrap_or_else(|| module.node.clone());
            found.at(
                &place,
                "Envoy unloads the library when no filter uses it, while the engine's thread still runs its code",
            );
        }
    }
}

pub(super) fn module_beside_check(model: &Model<'_>, found: &mut Found) {
    for manager in &model.managers {
        if let (Some(module), Some(_)) = (manager.modules().next(), manager.ext_authz().next()) {
            found.at(
                &module.node,
                "ext_authz and the module decide each request twice, each by a configuration of its own",
            );
        }
    }
}
