require ${@bb.utils.contains('DISTRO_FEATURES', 'vlad', 'recipes-kernel/linux/vlad-kernel.inc', '', d)}
