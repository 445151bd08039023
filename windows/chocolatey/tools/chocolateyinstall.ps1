# Installs the MSI that lies beside this script, if it is the one that was packed.
$ErrorActionPreference = 'Stop'
$msi = Join-Path (Split-Path -Parent $MyInvocation.MyCommand.Definition) 'restic-manager-agent.msi'
$expected = '@SHA256@'
$found = (Get-FileHash -LiteralPath $msi -Algorithm SHA256).Hash
if ($found -ne $expected) { throw "$msi has the SHA-256 $found and not ${expected}: it was damaged or exchanged." }
$arguments = @{
    PackageName    = 'restic-manager-agent'
    FileType       = 'msi'
    File           = $msi
    SilentArgs     = '/qn /norestart'
    # Done, and done but for a restart of Windows.
    ValidExitCodes = @(0, 1641, 3010)
}
Install-ChocolateyInstallPackage @arguments
