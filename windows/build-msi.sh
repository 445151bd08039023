#!/bin/bash
# Makes the Windows agent's packages on Debian: an MSI with wixl (packages wixl and msitools), and a Chocolatey package with that MSI in it.
# Their version is the one in Cargo.toml. The same version has the same product code always.
# usage: windows/build-msi.sh [--program FILE] [--to DIR] [--version VERSION]
#   --program  restic-manager-agent.exe (default: what tests/tools/windows-build built)
#   --to       where the packages go (default: target/packages)
#   --version  another one than Cargo.toml's, to try an upgrade
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/.." && pwd)
program=$top/target/windows-build/x86_64-pc-windows-gnu/debug/restic-manager-agent.exe to=$top/target/packages version=
while [ $# -gt 0 ]; do
    case $1 in
    --program) program=$2; shift 2 ;;
    --to) to=$2; shift 2 ;;
    --version) version=$2; shift 2 ;;
    *) sed -n '2,/^set/{/^#/s/^# \?//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done
die() { printf 'build-msi: %s\n' "$1" >&2; exit 1; }
command -v wixl >/dev/null || die "there is no wixl: apt-get install wixl msitools"
[ -f "$program" ] || die "$program is missing: build it with tests/tools/windows-build, or name it with --program"
[ -n "$version" ] || version=$(sed -n '/^\[package\]/,/^\[dependencies\]/s/^version = "\(.*\)"$/\1/p' "$top/Cargo.toml")
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || die "a version such as 1.2.3 is needed, and this is \"$version\""
# Windows' installer knows numbers only.
numbers=${BASH_REMATCH[0]}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$to"
code=$(python3 -c 'import sys, uuid; print(str(uuid.uuid5(uuid.NAMESPACE_URL, sys.argv[1])).upper())' "restic-manager-agent $version")
msi=$to/restic-manager-agent-$version-x64.msi
sed 's/$/\r/' "$top/LICENSE" >"$work/LICENSE.txt"
# It finds files by their names, beside what it reads.
cp "$program" "$work/restic-manager-agent.exe"
cp "$here/agent.wxs" "$work/agent.wxs"
(cd "$work" && wixl --arch x64 -D Version="$numbers" -D ProductCode="$code" -o agent.msi agent.wxs) 2>"$work/wixl.log" ||
    die "wixl failed: $(cat "$work/wixl.log")"
# It warns of what it does not know, and goes on without it.
[ ! -s "$work/wixl.log" ] || die "wixl says: $(cat "$work/wixl.log")"
mv "$work/agent.msi" "$msi"

cp -r "$here/chocolatey" "$work/package"
package=$work/package
cp "$msi" "$package/tools/restic-manager-agent.msi"
cp "$work/LICENSE.txt" "$package/tools/LICENSE.txt"
sum=$(sha256sum "$msi")
sed -i "s/@SHA256@/${sum%% *}/" "$package/tools/chocolateyinstall.ps1"
sed -i "s/@VERSION@/$version/" "$package/restic-manager-agent.nuspec"
# Chocolatey asks for it of every package that brings programs along.
printf 'tools/restic-manager-agent.msi is built from the source by windows/build-msi.sh.\r\nIts SHA-256: %s\r\n' "${sum%% *}" \
    >"$package/tools/VERIFICATION.txt"
nupkg=$to/restic-manager-agent.$version.nupkg
python3 - "$package" "$nupkg" "$version" <<'END'
# A .nupkg is a zip with the parts that the Open Packaging Conventions ask for.
import os, sys, zipfile

folder, target, version = sys.argv[1:]
nuspec = "restic-manager-agent.nuspec"
properties = "package/services/metadata/core-properties/restic-manager-agent.psmdcp"
head = '<?xml version="1.0" encoding="utf-8"?>\n'
kinds = {"rels": "application/vnd.openxmlformats-package.relationships+xml",
         "psmdcp": "application/vnd.openxmlformats-package.core-properties+xml"}
kinds.update({kind: "application/octet" for kind in ("nuspec", "ps1", "txt", "msi")})
parts = {
    "[Content_Types].xml": head + '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    + "".join(f'<Default Extension="{kind}" ContentType="{name}"/>' for kind, name in kinds.items()) + "</Types>\n",
    "_rels/.rels": head + '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Type="http://schemas.microsoft.com/packaging/2010/07/manifest" Target="/' + nuspec + '" Id="R1"/>'
    '<Relationship Type="http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties" Target="/'
    + properties + '" Id="R2"/></Relationships>\n',
    properties: head + '<coreProperties xmlns="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:creator>restic-manager</dc:creator>'
    f"<dc:identifier>restic-manager-agent</dc:identifier><version>{version}</version></coreProperties>\n",
}
for name in [nuspec] + sorted("tools/" + name for name in os.listdir(os.path.join(folder, "tools"))):
    with open(os.path.join(folder, name), "rb") as file:
        parts[name] = file.read()
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
    for name, content in parts.items():
        # The same time always: the same files give the same package.
        package.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
END
printf '%s\n' "$msi" "$nupkg"
