# Removes the program and its service. The agent's directory in ProgramData stays.
$ErrorActionPreference = 'Stop'
[array] $products = Get-UninstallRegistryKey -SoftwareName 'restic-manager agent'
if ($products.Count -eq 0) {
    Write-Warning 'The restic-manager agent is removed already.'
    return
}
foreach ($product in $products) {
    # Of an MSI the key's name is the product's code.
    $arguments = @{
        PackageName    = 'restic-manager-agent'
        FileType       = 'msi'
        SilentArgs     = "$($product.PSChildName) /qn /norestart"
        File           = ''
        ValidExitCodes = @(0, 1605, 1614, 1641, 3010)
    }
    Uninstall-ChocolateyPackage @arguments
}
